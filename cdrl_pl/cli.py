"""The Lightning command line: short options, defaults that fit endless rollouts, and errors that say what to type."""

from __future__ import annotations

import difflib
import importlib
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NoReturn

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from cdrl_pl.collaboration import Collaboration
from cdrl_pl.dataset import RolloutDataModule
from cdrl_pl.imports import CONFIG_FILES, ImportRefusedError, check_imports
from cdrl_pl.machine import fast_precision

PROGRAM = "python -m cdrl_pl"
SHORT = {
    "--T1": "--model.T1",
    "--T2": "--model.T2",
    "--stop": "--model.stop",
    "--T_max": "--model.T_max",
    "--workers": "--data.pool.workers",
    "--copies": "--data.pool.copies",
    "--seed": "--seed_everything",
    "--precision": "--trainer.precision",
    "--devices": "--trainer.devices",
    "--episodes": "--data.evaluation_episodes",
}
# Warnings and notes that are about other uses of Lightning than this one.
QUIET = [
    "Experiment logs directory .* exists and is not empty",  # the folder was made for this run, or named by its config
    "Total length of `Jobs` across ranks is zero",
    ".*isinstance.treespec, LeafSpec.. is deprecated",
    "`weights_only` was not set",
    "You are trying to `self.log\\(\\)`",
]
QUIET_NOTES = ("Seed set to", "`weights_only` was not set", "GPU available: False", "TPU available: False", "litlogger")
RUN_VERSION = "CDRL_PL_RUN_VERSION"  # tells the processes that a strategy launches which run folder it is
DEBUG = "JSONARGPARSE_DEBUG"  # where set, errors keep their traceback
# Functions in which the run is under way: what goes wrong inside them is no mistake of the command line.
UNDER_WAY = {"training_step", "validation_step", "predict_step", "on_train_batch_start", "on_train_batch_end"}


TEACHER, ENV, IMPORTS = "--teacher", "--env", "--imports"


def expand(arguments: list[str]) -> list[str]:
    """Short options spelled out, once nothing speaks against the configs that they name."""
    arguments = _as_graph(_restricted(arguments))
    expanded = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        expanded.append(SHORT.get(option, option) + equals + value)
    return expanded


def _take(arguments: list[str], *options: str) -> tuple[dict[str, str], list[str]]:
    """The values of these options, and the arguments without them."""
    values: dict[str, str] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in options:
            rest.append(word)
        elif (value := value if equals else next(words, "")) == "" or value.startswith("--"):
            refuse(f"{option} needs a value")
        else:
            values[option] = value
    return values, rest


def _restricted(arguments: list[str]) -> list[str]:
    """``--imports A,B``: refuses config files that would import anything else."""
    values, rest = _take(arguments, IMPORTS)
    if values:
        named = [argument.partition("=")[2] or argument for argument in rest]
        files = [path for path in map(Path, named) if path.suffix in CONFIG_FILES]
        try:
            check_imports(files, [name.strip() for name in values[IMPORTS].split(",")])
        except ImportRefusedError as error:
            refuse(str(error))
    return rest


def _as_graph(arguments: list[str]) -> list[str]:
    """``--teacher FOLDER [--env ID]`` spelled out: the graph of one frozen agent, which plays that task."""
    values, rest = _take(arguments, TEACHER, ENV)
    if not values:
        return arguments
    if TEACHER not in values:
        refuse(f"{ENV} is of {TEACHER}; other agents have their environment in the config")
    agent: dict[str, Any] = {"certificate": values[TEACHER]}
    if ENV in values:
        agent["env"] = {"id": values[ENV]}
    return [*rest[:1], f"--model.agents={json.dumps({'teacher': agent})}", *rest[1:]]


def refuse(message: str) -> NoReturn:
    """Says what is wrong and where to look, and ends with exit code 2."""
    command = next((word for word in sys.argv[1:] if word in LightningCLI.subcommands()), "fit")
    sys.stderr.write(f"error: {message}\n{PROGRAM} {command} --help lists every option\n")
    raise SystemExit(2)


class _Parser(LightningArgumentParser):
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
        yield f"there is no {match['module']}.{match['e']}{_nearest(match['e'], known)}"
    elif match["d"]:
        known = [*SHORT, *_options(parser)]
        for word in match["d"].split():
            if word.startswith("-"):
                yield f"there is no option {word.partition('=')[0]}{_nearest(word.partition('=')[0], known)}"
        if not match["d"].startswith("-"):
            yield f"{match['d'].split()[0]!r} belongs to no option"
    else:
        if match["command"]:
            parser = parser._subcommands_action.choices[match["command"]]
        wrong = match["a"] or match["c"] or ".".join(filter(None, (match["group"], match["b"])))
        yield f"there is no option {wrong}{_nearest(wrong, [name[2:] for name in _options(parser)])}"


def _options(parser: Any) -> list[str]:
    names = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    if "--data.pool" in names:
        names += SHORT.values()  # options within a group that the parser reads as one value
    return sorted(
        {name for name in names if not name.endswith(".help")} - {"--help", "--print_config", "--print_shtab"}
    )


def _nearest(wrong: str, known: list[str]) -> str:
    """``"; did you mean X?"``, X being the nearest as a whole, by its first parts, or by its last part; or nothing."""
    parts = wrong.split(".")
    for end in range(len(parts), 0, -1):
        if near := difflib.get_close_matches(".".join(parts[:end]), known, n=1, cutoff=0.7):
            return f"; did you mean {near[0]}?"
    tails = {name.split(".")[-1]: name for name in known}
    if near := difflib.get_close_matches(parts[-1].lstrip("-"), tails, n=1, cutoff=0.5):
        return f"; did you mean {tails[near[0]]}?"
    return ""


NOISE = re.compile(
    r"(- )?Does not validate against any of the Union subtypes|Subtypes: |Errors:$|- Expected a <class 'NoneType'>"
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
    if re.search(r"are required: \w+\.model\.agents", text):
        text = "a config must name the agents; give one with --config, such as configs/quickstart.yaml"
    return text


@contextmanager
def clean_errors() -> Iterator[None]:
    """Wrong settings, found while everything is built and before anything runs, end the program with one paragraph."""
    try:
        yield
    except (ValueError, OSError, MisconfigurationException) as error:
        if os.environ.get(DEBUG) or any(_is_fault(part) for part in _chain(error)):
            raise
        refuse(_shorten(str(error)))
    except (RuntimeError, UnpicklingError, EOFError) as error:
        what = str(error)
        if "loading state_dict" in what:
            different = [line.strip() for line in what.splitlines()[1:]]
            refuse(f"the checkpoint does not fit the config; {len(different)} differences, the first: {different[0]}")
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in what:
            raise
        refuse("the checkpoint cannot be read; it is damaged, or no checkpoint")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_fault(error: BaseException) -> bool:
    """Whether the program is wrong rather than what it was told."""
    if isinstance(error, AssertionError | AttributeError | ImportError | NameError):
        return True
    return any(frame.name in UNDER_WAY for frame in traceback.extract_tb(error.__traceback__))


class CLI(LightningCLI):
    """``LightningCLI`` whose runs write below one folder, and whose flags hold on resume."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            Collaboration,
            RolloutDataModule,
            parser_class=_Parser,
            parser_kwargs={"prog": PROGRAM, "allow_abbrev": False},
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            trainer_defaults={
                "max_epochs": -1,
                "max_steps": -1,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "default_root_dir": "runs",
                "precision": fast_precision(),
            },
            **kwargs,
        )

    def _parse_ckpt_path(self) -> None:
        """Flags given beside a checkpoint hold: nothing is taken from its hyper-parameters."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path and not Path(path).is_file():
            refuse(f"ckpt_path is {path!r}, which is no file")

    def instantiate_classes(self) -> None:
        """As Lightning's, but what a constructor refuses is said without a traceback."""
        with clean_errors():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """As Lightning's, with loggers to TensorBoard and CSV in a new run folder, unless the config names loggers.

        The saved config does not name them, so that a run started from it gets a folder of its own.
        """
        settings = self.config_init[self.subcommand].trainer
        if settings.logger not in (None, True):
            return super().instantiate_trainer(**kwargs)
        trainer = super().instantiate_trainer(**kwargs, logger=False)
        root = settings.default_root_dir
        version = os.environ.get(RUN_VERSION) or new_version(Path(root))
        os.environ[RUN_VERSION] = version
        where = {"save_dir": root, "name": "", "version": version}
        trainer.loggers = [TensorBoardLogger(**where), CSVLogger(**where, flush_logs_every_n_steps=1)]
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        with clean_errors():
            super()._run_subcommand(subcommand)


def new_version(root: Path) -> str:
    """Makes and names the first free ``version_N`` below ``root``; two runs that start together get two folders.

    Only rank 0 makes it. Another rank that was not launched by rank 0 (torchrun) logs nothing, and asks rank 0 for it.
    """
    if getattr(rank_zero_only, "rank", 0):
        return "version"
    root.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [int(m[1]) for p in root.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", p.name))]
        name = f"version_{max(taken, default=-1) + 1}"
        try:
            (root / name).mkdir()
        except FileExistsError:
            continue
        return name


class _Quiet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(note in record.getMessage() for note in QUIET_NOTES)


def run(arguments: list[str]) -> CLI:
    """Runs one command line; returns it with its finished ``model``, ``datamodule`` and ``trainer``.

    Raises:
        SystemExit: 2 where an option or its value is wrong, with the reason on the standard error; 143 where the run
            was ended by SIGTERM.
    """
    sys.argv[1:] = arguments  # what a refusal is about
    sys.argv[1:] = expand(arguments)
    logging.getLogger("callbacks").setLevel(logging.INFO)
    for noise in QUIET:
        warnings.filterwarnings("ignore", message=noise)
    for name in ("lightning_fabric", "pytorch_lightning"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_Quiet())
    try:
        return CLI()
    except SIGTERMException:
        raise SystemExit(143) from None
