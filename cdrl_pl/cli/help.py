"""Help of the Lightning commands: short options, Lightning's options as this project takes them, nested options."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser

from cdrl_pl.cli.errors import Parser, refuse
from cdrl_pl.cli.options import CKPT_PATH, NESTED, SEED, SHORT, TRAINER
from cdrl_pl.spelling import nearest
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.datamodule import RolloutDataModule
from cdrl_pl.training.trainer_options import ROWS

SUFFIX = ".help"
ROOTS: dict[str, type] = {"model": Collaboration, "data": RolloutDataModule}
# What Lightning says of these options is not what this command line does with them.
LIGHTNINGS = {row.option: f"refused: {row.why}" for row in ROWS} | TRAINER
INSTEAD = {"seed_everything": SEED, "ckpt_path": CKPT_PATH, **{f"trainer.{k}": v for k, v in LIGHTNINGS.items()}}
IN_AN_AGENT = re.compile(r"^(model\.agents)\.[A-Za-z0-9_-]+(?=\.)")  # an agent's name, before what is within the agent


def add_short_options(parser: LightningArgumentParser) -> None:
    """Lists the short options in a group of their own, for the help alone: as options, configs could set them."""
    group = parser.add_argument_group("what people change most")
    for name, short in SHORT.items():
        shown = argparse.Action(
            [name], argparse.SUPPRESS, default=argparse.SUPPRESS, metavar=short.value, help=short.help
        )
        group._group_actions.append(shown)


def correct_help(parser: LightningArgumentParser) -> None:
    """Says of Lightning's options what they are here, and how to ask for nested options."""
    parser.description = f"{parser.description or ''} {NESTED}".strip()
    for action in parser._actions:
        action.help = INSTEAD.get(action.dest, action.help)


def nested() -> dict[str, type]:
    """The class behind every option that has options within: ``model.agents.learner`` is a ``LearnerConfig``."""
    return {name: kind for root, cls in ROOTS.items() for name, kind in _within(root, cls)}


def _within(name: str, kind: type) -> Iterator[tuple[str, type]]:
    yield name, kind
    hints = get_type_hints(kind if dataclasses.is_dataclass(kind) else kind.__init__)  # type: ignore[misc]
    for option, hint in hints.items():
        for inner in _dataclasses(hint):
            yield from _within(f"{name}.{option}", inner)


def _dataclasses(hint: Any) -> Iterator[type]:
    """The dataclasses of a type hint, such as ``AgentConfig`` of ``dict[str, AgentConfig]``."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for argument in get_args(hint):
        yield from _dataclasses(argument)


def nested_parser(name: str, kind: type) -> Parser:
    """A parser of nothing but the options within one option, for its help.

    Args:
        name: of the option, such as ``model.agents.learner``.
        kind: its class.
    """
    unnamed = name if name in nested() else IN_AN_AGENT.sub(r"\1", name)
    shown = re.sub(r"^model\.agents(?=$|\.)", "model.agents.NAME", unnamed)
    parser = Parser(usage=argparse.SUPPRESS, description=f"The options within {shown}.", add_help=False)
    parser.add_class_arguments(kind, shown)
    return parser


def show_nested_help(arguments: Sequence[str]) -> None:
    """Answers the first ``--NAME.help``, unless it is the parser's to answer (``--trainer.callbacks.help=CLASS``).

    An agent's name may be within: ``--model.agents.pong.learner.help``.

    Raises:
        SystemExit: 0 after the help; 2 where there is no such option, with the nearest.
    """
    asked = [word[2:].partition("=")[0] for word in arguments if word.startswith("--")]
    for name in (option.removesuffix(SUFFIX) for option in asked if option.endswith(SUFFIX)):
        known = nested()
        kind = known.get(name) or known.get(IN_AN_AGENT.sub(r"\1", name))
        if kind is not None:
            print(nested_parser(name, kind).format_help(), end="")
            raise SystemExit(0)
        if name not in (others := _classes_of_the_trainer()):
            refuse(f"there is no option --{name}{SUFFIX}{_nearest(name, [*known, *others])}")


def _classes_of_the_trainer() -> list[str]:
    """The options of the trainer that are classes, each of which has a help of its own."""
    parser = Parser()
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    options = [option[2:] for action in parser._actions for option in action.option_strings]
    return [option.removesuffix(SUFFIX) for option in options if option.endswith(SUFFIX)]


def _nearest(name: str, known: Sequence[str]) -> str:
    """``"; did you mean --X.help?"``, X being the nearest by its last part, or as a whole; or nothing."""
    last = {option.rpartition(".")[2]: option for option in known}
    if near := difflib.get_close_matches(name.rpartition(".")[2], last, n=1):
        return f"; did you mean --{last[near[0]]}{SUFFIX}?"
    return nearest(f"--{name}{SUFFIX}", [f"--{option}{SUFFIX}" for option in known])
