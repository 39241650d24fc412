"""Configs as plain trees, each merged over the ones before it. Pure, and torch-free.

Mappings merge option by option, at every depth: the agents by their names, too. Transfers merge by teacher and student,
callbacks by the name of their class; what is not there yet is added. Everything else stands instead of what was there,
and so does an empty list, or null, of transfers or callbacks. Merging is associative.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

Tree = dict[str, Any]
Place = tuple[str, ...]
TRANSFERS, CALLBACKS = ("model", "transfers"), ("trainer", "callbacks")
ROOTS = ("model", "data", "trainer")


@dataclass(frozen=True)
class Instead:
    """A value that stands instead of whatever was there, although it could merge with it."""

    value: Any


def merged(trees: Iterable[Tree]) -> Tree:
    """The trees, each over the ones before it, as one plain tree."""
    tree: Tree = plain(reduce(merge, map(normal, trees), {}))
    return tree


def merge(lower: Any, upper: Any, place: Place = ()) -> Any:
    """One tree over another, both ``normal``; the result may have ``Instead`` within.

    Args:
        lower: what was there.
        upper: what goes over it.
        place: of both, as the names of the options that lead to them.
    """
    if isinstance(upper, Instead):
        return upper
    if isinstance(lower, Instead):
        over = merge(lower.value, upper, place)
        return over if isinstance(over, Instead) else Instead(over)
    if isinstance(upper, dict):
        if not isinstance(lower, dict) or _of_another_class(lower, upper):
            return Instead(upper)
        return _by_key(lower, upper, place)
    if place in (TRANSFERS, CALLBACKS) and isinstance(upper, list):
        if not upper or not isinstance(lower, list):
            return Instead(upper)
        return list(_by_key(_keyed(lower, place), _keyed(upper, place), (*place, "")).values())
    return upper


def _by_key(lower: dict[Any, Any], upper: dict[Any, Any], place: Place) -> dict[Any, Any]:
    over = {key: merge(lower[key], value, (*place, key)) if key in lower else value for key, value in upper.items()}
    return {**lower, **over}


def _of_another_class(lower: Tree, upper: Tree) -> bool:
    """Returns whether both name a class, and not the same: the options of one are not the other's."""
    classes = [tree["class_path"] for tree in (lower, upper) if "class_path" in tree]
    return len(classes) == 2 and class_name(classes[0]) != class_name(classes[1])


def class_name(class_path: Any) -> str:
    """The last part of a class path."""
    return str(class_path).rpartition(".")[2]


def _keyed(entries: list[Any], place: Place) -> dict[Hashable, Any]:
    """Entries by what they are, the second of the same kind apart from the first."""
    seen: Counter[Hashable] = Counter()
    keyed: dict[Hashable, Any] = {}
    for entry in entries:
        what = _identity(entry.value if isinstance(entry, Instead) else entry, place)
        seen[what] += 1
        keyed[what, seen[what]] = entry
    return keyed


def _identity(entry: Any, place: Place) -> Hashable:
    if not isinstance(entry, dict):
        return repr(entry)
    if place == CALLBACKS:
        return class_name(entry.get("class_path"))
    return repr((entry.get("teacher"), entry.get("student")))


def normal(tree: Tree) -> Tree:
    """The tree with one spelling where configs may have several.

    ``model.T_max: 5`` is ``model: {T_max: 5}``; a callback is a mapping within a list; ``callbacks+`` is ``callbacks``.
    """
    result = _nested(tree)
    for root, option in (TRANSFERS, CALLBACKS):
        options = result.get(root)
        if not isinstance(options, dict):
            continue
        if f"{option}+" in options:
            more = options.pop(f"{option}+")
            options[option] = [*_listed(options.get(option)), *_listed(more)]
        if (root, option) == CALLBACKS and options.get(option) is not None:
            options[option] = [{"class_path": c} if isinstance(c, str) else c for c in _listed(options[option])]
    return result


def _nested(tree: Tree, depth: int = 0) -> Tree:
    result: Tree = {}
    for key, value in tree.items():
        if depth == 0 and key in ROOTS and isinstance(value, dict):
            value = _nested(value, depth + 1)
        first, *rest = str(key).split(".")
        if rest and (depth or first in ROOTS):
            value = reduce(lambda inner, name: {name: inner}, reversed(rest), value)
            key = first
        result[key] = plain(merge(result[key], value, (key,))) if key in result else value
    return result


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def plain(tree: Any) -> Any:
    """The tree without ``Instead``."""
    if isinstance(tree, Instead):
        return plain(tree.value)
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    return tree
