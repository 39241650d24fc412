"""Writes docs/reference.md from the code: every option, callback and metric. ``python docs/make_reference.py``.

And the list of option names by which the command line answers slips.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from argparse import SUPPRESS
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentParser

import cdrl_pl.callbacks as callbacks
from cdrl_pl.cli import slips
from cdrl_pl.cli.help import LIGHTNINGS, nested, nested_parser
from cdrl_pl.cli.options import SHORT
from cdrl_pl.cli.trainer import CALLBACKS
from cdrl_pl.metric_names import METRICS

HEAD = """\
# Reference

Written from the code by `python docs/make_reference.py`; a test compares. The same texts answer
`python -m cdrl_pl fit --help`, and `--NAME.help` for what is within an option: `fit --model.agents.env.help`.
"""


def main() -> None:
    """Writes both files."""
    Path(__file__).with_name("reference.md").write_text(reference())
    Path(slips.__file__).with_name(slips.KNOWN).write_text(known_options())


def known_options() -> str:
    """Every option that has dots in its name, a line each."""
    kinds = {"trainer": pl.Trainer, **nested()}
    names = (f"{name}.{parameter}" for name, kind in kinds.items() for parameter in inspect.signature(kind).parameters)
    lines = {re.sub(r"^model\.agents\.", "model.agents.NAME.", name) for name in names}
    return "\n".join(sorted(lines)) + "\n"


def reference() -> str:
    """The whole page."""
    parts = [HEAD, "## Short options\n", table(("option", "what it sets"), short_options())]
    for name, kind in nested().items():
        shown = section(name)
        rows = options(kind, nested_parser(name, kind), shown)
        parts += [f"## {shown}\n", table(("option", "default", "what it is"), rows)]
    parts += ["## Lightning's options\n", "Of `trainer`. What else a value of one may be is refused by name.\n"]
    parts.append(table(("option", "what it does here"), sorted(lightnings_options())))
    parts.append("## Callbacks\n\nOf `trainer.callbacks`: `{class_path: cdrl_pl.callbacks.NAME, init_args: {...}}`.\n")
    for name in callbacks.__all__:
        kind = getattr(callbacks, name)
        first = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
        parts.append(f"### {name}\n\n{first}{by_itself(name)}\n")
        if rows := list(constructor(kind)):
            parts.append(table(("option", "default", "what it is"), rows))
    parts += ["## Metrics\n", "In `metrics.csv` and TensorBoard, over `env_steps`.\n"]
    parts.append(table(("column", "unit", "what it says"), [(f"`{m.pattern}`", m.unit, m.meaning) for m in METRICS]))
    return "\n".join(parts)


def short_options() -> Iterator[tuple[str, str]]:
    """Names with their values, and their help."""
    for name, short in SHORT.items():
        yield f"`{name} {short.value}`", short.help


def lightnings_options() -> Iterator[tuple[str, str]]:
    """Every option of Lightning's trainer, and what is to be said of it."""
    for name in set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}:
        yield f"`{name}`", LIGHTNINGS.get(name, "as Lightning's")


def options(kind: type, parser: Any, within: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and help of the options of one class; those that have options within link to their section."""
    parameters = inspect.signature(kind).parameters
    sections = {section(name) for name in nested()}
    for action in parser._actions:
        name = action.dest.removeprefix(f"{within}.")
        if action.option_strings and name != "help" and "." not in name and not action.dest.endswith(".help"):
            if action.default == SUPPRESS and name == within:  # this section itself
                continue
            default = "required" if parameters[name].default is inspect.Parameter.empty else default_of(action.default)
            said = [] if action.default == SUPPRESS else [action.help or ""]
            if (inner := section(f"{within}.{name}")) in sections:
                said.append(f"Options within: [{inner}](#{anchor(inner)}).")
            yield f"`{name}`", default, " ".join(said)


def by_itself(name: str) -> str:
    """Whether ``fit`` adds a callback where the config names none of its class, and what leaves it out."""
    if (path := f"cdrl_pl.callbacks.{name}") not in CALLBACKS:
        return ""
    off = CALLBACKS[path]
    return " `fit` adds it by itself" + (f"; `--trainer.{off} false` leaves it out." if off else ".")


def section(name: str) -> str:
    """The head of an option's section: those of an agent are below its name."""
    return re.sub(r"^model\.agents(?=$|\.)", "model.agents.NAME", name)


def anchor(head: str) -> str:
    """As Markdown pages link to a section."""
    return re.sub(r"[^\w-]", "", head.lower())


def constructor(kind: type[pl.Callback]) -> Iterator[tuple[str, str, str]]:
    """Name, default and help of a callback's options."""
    parser = ArgumentParser(add_help=False)
    parser.add_class_arguments(kind, "callback")
    yield from options(kind, parser, "callback")


def default_of(value: Any) -> str:
    """As a config would have it; empty where there is none to show."""
    if value == SUPPRESS or dataclasses.is_dataclass(value) or type(value).__name__ == "Namespace":
        return ""
    words = {"True": "true", "False": "false", "None": "null"}
    return f"`{words.get(str(value), value)}`"


def table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
