"""YAML as every file of this program is read: numbers in any spelling, names that are texts. Torch-free."""

from __future__ import annotations

import json
from typing import Any

import yaml
from jsonargparse import get_loader

from cdrl_pl.checks import ConfigError

KINDS = {bool: "true or false", int: "a number", float: "a number", type(None): "null"}
MERGE_KEY = "tag:yaml.org,2002:merge"  # YAML's own way to take over another mapping's options


class YamlError(ConfigError):
    """A text that is not the YAML that it should be, with its file, the line and the reason."""


def load(text: str, name: str) -> Any:
    """What the parser of the command line reads in a text: 1e-4 is a number there, which PyYAML takes for a text.

    Args:
        text: in YAML.
        name: of its file.

    Raises:
        YamlError: see there.
    """
    try:
        tree = get_loader("yaml")(text)
        _check_names(yaml.compose(text, Loader=yaml.SafeLoader), name, set())
        if isinstance(tree, str):  # what this loader makes of nothing, and of names without a value
            tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise YamlError(f"{name}{line} is not YAML: {said}") from None
    return tree


def _check_names(node: Any, name: str, seen: set[int], place: str = "") -> None:
    """Refuses names that YAML takes for something else, and names that are there twice, one of which would be lost."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, inner in enumerate(node.value):
            _check_names(inner, name, seen, f"{place}[{index}]")
    if not isinstance(node, yaml.MappingNode):
        return
    names: set[str] = set()
    for key, inner in node.value:
        said = str(key.value)
        if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_KEY:
            where = f"{name}, line {key.start_mark.line + 1}: {place or 'the config'} names"
            read = get_loader("yaml")(said) if key.style is None and said else said if key.style else None
            if not isinstance(read, str):
                kind = KINDS.get(type(read), "something else")
                raise YamlError(
                    f"{where} {said}, which YAML takes for {kind}; write {json.dumps(said)}, or choose another name"
                )
            if said in names:
                raise YamlError(f"{where} {said} twice")
            names.add(said)
        _check_names(inner, name, seen, f"{place}.{said}" if place else said)
