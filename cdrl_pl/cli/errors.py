"""Errors of a command line or config: one paragraph that names the option, and the one probably meant."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, NoReturn

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli import options
from cdrl_pl.cli.options import PROGRAM, SHORT
from cdrl_pl.cli.slips import nearest_option, unknown_option
from cdrl_pl.storage.atomic import disk_full

DEBUG = "JSONARGPARSE_DEBUG"  # where set, errors keep their traceback


def refuse(message: str) -> NoReturn:
    """Says what is wrong and where to look, and ends with exit code 2."""
    command = next((word for word in sys.argv[1:] if word in LightningCLI.subcommands()), "fit")
    options.refuse(message, f"{PROGRAM} {command}")


class Parser(LightningArgumentParser):
    """Says in a few lines what is wrong, and which option was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = _explain(self, message)
        if not self.exit_on_error or os.environ.get(DEBUG):
            super().error(message, ex)  # a part of a config: the whole one's parser gets this message
        refuse(_shorten(message))


UNKNOWN = re.compile(
    r"Subcommand '(?P<command>\w+)' does not accept option '(?P<a>[\w.]+)'"
    r"|Group '(?P<group>[\w.]*)' does not accept option '(?P<b>[\w.]+)'"
    r"|Option '(?P<c>[\w.]+)' is not accepted"
    r"|unrecognized arguments: (?P<d>.+)"
    r"|module '(?P<module>[\w.]+)' has no attribute '(?P<e>\w+)'"
)


def _explain(parser: Any, message: str) -> str:
    """``message`` with what it says of unknown names put plainly, beside the nearest of those that ``parser`` knows."""
    return UNKNOWN.sub(lambda match: "; ".join(_suggestions(parser, match)), message)


def _suggestions(parser: Any, match: re.Match[str]) -> Iterator[str]:
    if match["module"]:
        known = [name for name in dir(importlib.import_module(match["module"])) if name[:1].isupper()]
        yield f"there is no {match['module']}.{match['e']}{nearest_option(match['e'], known)}"
    elif match["d"]:
        known = [*SHORT, *_options(parser)]
        for word in match["d"].split():
            if word.startswith("-"):
                yield unknown_option(word.partition("=")[0], known)
        if not match["d"].startswith("-"):
            yield f"{match['d'].split()[0]!r} belongs to no option"
    else:
        if match["command"]:
            parser = parser._subcommands_action.choices[match["command"]]
        wrong = match["a"] or match["c"] or ".".join(filter(None, (match["group"], match["b"])))
        yield unknown_option(wrong, [name[2:] for name in _options(parser)])


def _options(parser: Any) -> list[str]:
    names = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    if "--data.pool" in names:
        names += [short.stands_for for short in SHORT.values() if short.stands_for]  # some are within a group
    return sorted(
        {name for name in names if not name.endswith(".help")} - {"--help", "--print_config", "--print_shtab"}
    )


UNION = "Does not validate against any of the Union subtypes"
NOISE = re.compile(
    rf"(- )?{UNION}"
    r"|Subtypes: |Errors:$|- Expected a <class 'NoneType'>"
    r"|(- )?Not a valid subclass of |Subclass types expect one of|- a (class path|dict) |- a dict|Given value type:"
    r"|Given value: ([\[{]|NestedArg|Namespace\()|(- )?Problem with given class_path 'cdrl_pl\."
)


def _shorten(message: str) -> str:
    """The parser's nested report without its scaffolding: one line ``where: what``."""
    lines = [line.strip() for line in message.splitlines()]
    kept = [line.removeprefix("- ") for line in lines if line and not NOISE.match(line)]
    if not kept:
        return message
    text = " ".join(line if line.endswith((":", ".", "?")) else f"{line};" for line in kept).rstrip(";")
    text = re.sub(r"Parser key \"([^\"]+)\":", r"\1:", text)
    text = re.sub(r"Problem with given class_path '([^']+)':", r"\1:", text)
    text = re.sub(r"a <class '([\w.]+)'>", r"\1", text)
    text = re.sub(r"a typing\.Literal\[([^\]]+)\]", r"one of \1", text)
    text = re.sub(
        r"env: kwargs: Expected dict\. Got value: .*",
        "env.kwargs must be a mapping: --model.agents.NAME.env.kwargs '{moves: 5}'",
        text,
    )
    if re.search(r"are required: \w+\.model\.agents", text):
        text = "a config must name the agents; give one with --config, such as quickstart"
    return text


@contextmanager
def clean_errors(under_way: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Ends the program with one paragraph where a setting cannot be, or the disk is full; a fault keeps its traceback.

    Args:
        under_way: whether the run has begun: from then on, a file that cannot be used is no setting.
    """
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        if os.environ.get(DEBUG) or not _is_about_a_setting(error):
            raise
        refuse(_shorten(str(error)))
    except OSError as error:
        if os.environ.get(DEBUG):
            raise
        if full := disk_full(error):
            sys.stderr.write(f"error: {full}\n")
            raise SystemExit(1) from None
        if under_way():
            raise
        refuse(_shorten(str(error)))
    except (RuntimeError, UnpicklingError, EOFError) as error:
        if under_way():
            raise
        what = str(error)
        if "loading state_dict" in what:
            different = [line.strip() for line in what.splitlines()[1:]]
            refuse(f"the checkpoint does not fit the config; {len(different)} differences, the first: {different[0]}")
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in what:
            raise
        refuse("the checkpoint cannot be read; it is damaged, or no checkpoint")


def _is_about_a_setting(error: BaseException) -> bool:
    """Returns whether a check of this program, or Lightning's, or the parser's of a value's type, has raised it.

    The parser's report on a value that may be of several types comes from the first of them, whatever the others say.
    """
    chain = list(_chain(error))
    if any(isinstance(part, ConfigError | MisconfigurationException) for part in chain):
        return True
    faults = (AssertionError, AttributeError, ImportError, NameError)
    return UNION in str(error) and not any(isinstance(part, faults) for part in chain)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from: the parser wraps what a constructor raises."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
