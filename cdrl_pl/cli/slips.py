"""Slips in the names of options: what is said of them, and at once, before anything heavy is imported. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.config_files import ConfigFiles, take_files
from cdrl_pl.cli.merging import ROOTS
from cdrl_pl.cli.options import ELSEWHERE, PROGRAM, SHORT, refuse
from cdrl_pl.spelling import nearest

KNOWN = "known_options.txt"  # every option with dots, written by docs/make_reference.py from the parser that knows them
AGENTS, NAME = ["model", "agents"], "NAME"
# Options that have been renamed, by the last parts of their names: configs of version 0.1 may have the old ones.
RENAMED = {
    "reading": "preset_overrides",
    "advice": "control",
    "memory": "span",
    "image_size": "view.size",
    "crop": "view.crop",
}
UNDOTTED = (  # beside the short ones, every option of fit, validate, test and predict whose name has no dot
    "--ckpt_path", "--config", "--data", "--help", "--model", "--print_config", "--return_predictions",
    "--seed_everything", "--track", "--trainer", "--verbose", "--weights_only",
)  # fmt: skip


def check_slips(arguments: Sequence[str]) -> None:
    """Refuses a slip of the keyboard in an option, or in a config file, at once.

    What is not near any option is left to the whole parser, and so is whatever else is wrong.

    Args:
        arguments: of the command line, the command first.
    """
    program = f"{PROGRAM} {arguments[0]}"
    for word in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        if said := _undotted(word) if "." not in word else _dotted(word):
            refuse(said, program)
    with suppress(ConfigError, OSError, ValueError):  # the whole parser says what is wrong with a file
        names, _ = take_files(arguments)
        for name in names:
            for option in _named(ConfigFiles().read(name)) if name != "-" else ():
                if said := _dotted(option):
                    refuse(f"{name}: {said}", program)


def _undotted(word: str) -> str | None:
    known = [*SHORT, *UNDOTTED]
    if "+" in word or word in known:
        return None
    ours = ELSEWHERE.get(word[2:].replace("-", "_").lower())
    found = f"; here it is {ours}" if ours else nearest(word, known, cutoff=0.7)
    return f"there is no option {word}{found}" if found else None


def _dotted(option: str) -> str | None:
    """What is wrong with the name of an option, as on the command line or, without dashes, as in a config."""
    dashes = "--" if option.startswith("--") else ""
    parts = [part for part in option.removeprefix("--").rstrip("+").split(".") if not part.isdecimal()]
    if parts[0] not in ROOTS or parts[-1] == "help":
        return None
    agent = parts[2:3] if parts[:2] == AGENTS else []
    plain = ".".join([*AGENTS, NAME, *parts[3:]] if agent else parts)
    known = (files("cdrl_pl.cli") / KNOWN).read_text().split()
    groups = {name[:at] for name in known for at, letter in enumerate(name) if letter == "."}
    if plain in known or plain in groups:
        return None
    if any(plain.startswith(f"{name}.") for name in set(known) - groups):
        return None  # within a mapping, or an object by class path
    shown = [name.replace(f".{NAME}.", f".{agent[0]}.") if agent else name for name in known]
    return unknown_option(dashes + ".".join(parts), [dashes + name for name in shown])


def _named(tree: Any, place: str = "") -> Iterator[str]:
    """The names of all options of a config, with dots."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _named(value, f"{place}.{key}" if place else str(key))
    elif isinstance(tree, list) and any(isinstance(value, dict) for value in tree):
        for value in tree:
            yield from _named(value, place)
    elif place:
        yield place


def unknown_option(wrong: str, known: list[str]) -> str:
    """What is said of an option that there is not, on the command line (``--T_mx``) or in a config (``model.T_mx``).

    Args:
        wrong: its name, as it was given.
        known: the names that there are, in the same form.
    """
    if now := _renamed(wrong):
        return f"{wrong} is now called {now}"
    bare, of_a_config = wrong.lstrip("-").replace("-", "_"), not wrong.startswith("-")
    if of_a_config and (short := SHORT.get(f"--{wrong}")) and short.stands_for:
        return f"there is no option {wrong} in a config; it is {short.stands_for[2:]}"
    found = nearest_option(wrong, known)
    if ours := ELSEWHERE.get(bare.rpartition(".")[2].lower()):
        found = f"; here it is {ours.replace('--', '') if of_a_config else ours}"
    return f"there is no option {wrong}{found}"


def _renamed(option: str) -> str | None:
    """The name that an option of version 0.1 has now; None where it has none."""
    dashes = "--" if option.startswith("--") else ""
    parts = option.removeprefix("--").split(".")
    if dashes and len(parts) == 1:
        parts = ["model", *parts]
    for index, old in enumerate(parts):
        if old in RENAMED and (index == len(parts) - 1 or parts[: index + 1] == ["model", "reading"]):
            now = dashes + ".".join([*parts[:index], RENAMED[old], *parts[index + 1 :]])
            return f"{now}, and its value 'teacher' is 'none'" if old == "advice" else now
    return None


def nearest_option(wrong: str, known: list[str]) -> str:
    """``"; did you mean X?"``, X being the nearest as a whole, by its first parts, or by its last part; or nothing.

    Args:
        wrong: the name that there is not.
        known: the names that there are.
    """
    parts = wrong.split(".")
    for end in range(len(parts), 0, -1):
        if found := nearest(".".join(parts[:end]), known, cutoff=0.7):
            return found
    tails = {name.split(".")[-1]: name for name in known}
    if near := difflib.get_close_matches(parts[-1].lstrip("-"), tails, n=1, cutoff=0.5):
        return f"; did you mean {tails[near[0]]}?"
    return ""
