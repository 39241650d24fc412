"""The Lightning command line: short options, and defaults that fit endless rollouts."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.errors import Parser, clean_errors, refuse
from cdrl_pl.cli.help import add_short_options, correct_help, show_nested_help
from cdrl_pl.cli.import_guard import CONFIG_FILES, ImportRefusedError, check_imports
from cdrl_pl.cli.options import PROGRAM, SHORT
from cdrl_pl.storage.checkpoints import is_whole, saved
from cdrl_pl.system.hardware import fast_precision
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.datamodule import RolloutDataModule

# Warnings and notes that are about other uses of Lightning than this one.
QUIET = [
    "Experiment logs directory .* exists and is not empty",  # the folder was made for this run, or named by its config
    "Total length of `EvaluationJobs` across ranks is zero",
    ".*isinstance.treespec, LeafSpec.. is deprecated",
    "`weights_only` was not set",
    "You are trying to `self.log\\(\\)`",
]
QUIET_NOTES = ("Seed set to", "`weights_only` was not set", "GPU available: False", "TPU available: False", "litlogger")
RUN_VERSION = "CDRL_PL_RUN_VERSION"  # tells the processes that a strategy launches which run folder it is
TEACHER, ENV, IMPORTS = "--teacher", "--env", "--imports"
CALLBACKS = {  # that every training has unless its config names one of the class: class path -> what switches it off
    "callbacks.AlignmentSchedule": None,
    "callbacks.DistillationSchedule": None,
    "callbacks.ActionDistributions": None,
    "callbacks.Progress": "enable_progress_bar",
    "callbacks.EnvStepsCheckpoint": "enable_checkpointing",
}
DEVICES = ("accelerator", "devices", "num_nodes", "strategy", "precision")  # options of the trainer that must agree


def expand(arguments: list[str]) -> list[str]:
    """Short options spelled out, once nothing speaks against the configs that they name."""
    arguments = _as_graph(_restricted(arguments))
    expanded = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        long = SHORT[option].stands_for if option in SHORT else None
        expanded.append((long or option) + equals + value)
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


class CLI(LightningCLI):
    """``LightningCLI`` whose runs write below one folder, and whose flags hold on resume."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            Collaboration,
            RolloutDataModule,
            parser_class=Parser,
            parser_kwargs={"prog": PROGRAM, "allow_abbrev": False},
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            trainer_defaults={
                "max_epochs": -1,
                "max_steps": -1,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": True,
                "enable_checkpointing": True,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "default_root_dir": "runs",
                "precision": fast_precision(),
            },
            **kwargs,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As Lightning's, after the short options."""
        add_short_options(parser)
        super().add_default_arguments_to_parser(parser)

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's, with what this command line says of its options."""
        super().setup_parser(*args, **kwargs)
        for parser in self._subcommand_parsers.values():
            correct_help(parser)

    def _parse_ckpt_path(self) -> None:
        """A run's folder stands for its newest whole checkpoint. Flags given beside one hold over what is in it."""
        settings = self.config[self.config.subcommand]
        path = settings.get("ckpt_path")
        if path and Path(path).is_dir():
            settings.ckpt_path = _newest(Path(path))
        elif path and not Path(path).is_file():
            refuse(f"ckpt_path is {path!r}, which is no file, nor the folder of a run")
        elif path and not is_whole(Path(path)):
            refuse(f"ckpt_path is {path!r}, which is damaged, or no checkpoint; its folder may hold an older one")

    def before_instantiate_classes(self) -> None:
        """Adds the callbacks that every training needs, where the config names none of their class."""
        if self.subcommand != "fit":
            return
        trainer = self.config.fit.trainer
        given = list(trainer.callbacks or [])
        named = {callback["class_path"].rpartition(".")[2] for callback in given}
        for path, option in CALLBACKS.items():
            wanted = option is None or trainer[option] is not False
            if wanted and path.rpartition(".")[2] not in named:
                given.append(Namespace(class_path=path))
        trainer.callbacks = given

    def instantiate_classes(self) -> None:
        """As Lightning's, but what a constructor refuses is said without a traceback."""
        with clean_errors():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """As Lightning's, in a new run folder, with loggers to TensorBoard and CSV unless the config names loggers.

        The saved config does not name them, so that a run started from it gets a folder of its own. Lightning's root is
        that folder, too: what it would resume there by itself (``hpc_ckpt_*.ckpt``) is no other run's.
        """
        settings = self.config_init[self.subcommand].trainer
        own = settings.logger in (None, True)
        kwargs |= torchruns_world(settings) | without_requeueing(settings)
        root = settings.default_root_dir
        version = os.environ.get(RUN_VERSION) or new_version(Path(root))
        os.environ[RUN_VERSION] = version
        kwargs["default_root_dir"] = str(Path(root) / version)
        try:
            own_classes = {"enable_progress_bar": False, "enable_checkpointing": self._has_model_checkpoint(settings)}
            trainer = super().instantiate_trainer(**kwargs, **own_classes, **({"logger": False} if own else {}))
        except (MisconfigurationException, ValueError) as error:  # Lightning's do not say which option they are about
            chosen = ", ".join(f"{option} {settings[option]}" for option in DEVICES)
            raise MisconfigurationException(f"trainer ({chosen}): {error}") from error
        if not own:
            return trainer
        where = {"save_dir": root, "name": "", "version": version}
        trainer.loggers = [TensorBoardLogger(**where), CSVLogger(**where, flush_logs_every_n_steps=1)]
        return trainer

    @staticmethod
    def _has_model_checkpoint(settings: Namespace) -> bool:
        """Returns whether a config names Lightning's own checkpoint callback, which Lightning then wants enabled."""
        return any(isinstance(callback, ModelCheckpoint) for callback in settings.callbacks or ())

    def _run_subcommand(self, subcommand: str) -> None:
        began = Began()
        self.trainer.callbacks.append(began)  # type: ignore[attr-defined]
        with clean_errors(lambda: began.happened), suppress(Stopped):  # learning ends without it, at a batch's boundary
            super()._run_subcommand(subcommand)
        if self.model.stop_request.requested:
            raise SystemExit(self.model.stop_request.exit_code)


def torchruns_world(settings: Namespace) -> dict[str, Any]:
    """What the trainer needs to take up the processes that torchrun has started; nothing where it has started none.

    Raises:
        ConfigError: the options given beside it are of another number of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {}
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if everywhere == 1:
        return {}
    taken: dict[str, Any] = {"devices": here, "num_nodes": everywhere // here}
    for option, value in taken.items():
        given, unset = settings[option], {"devices": "auto", "num_nodes": 1}[option]
        if given not in (unset, value, str(value)):
            raise ConfigError(f"trainer.{option} is {given!r}, but torchrun has started {value}; leave it out")
    return {**taken, **({"strategy": "ddp"} if settings.strategy == "auto" else {})}


def without_requeueing(settings: Namespace) -> dict[str, Any]:
    """Turns off what Lightning does by itself under Slurm where the config names no environment of its own.

    On a signal it would write a checkpoint of another kind and requeue the job; here a run that is told to end saves,
    and ``--ckpt_path`` with its folder goes on.
    """
    if settings.plugins is not None or not SLURMEnvironment.detect():
        return {}
    return {"plugins": [SLURMEnvironment(auto_requeue=False)]}


class Began(pl.Callback):
    """Notes that the run is under way: what goes wrong from then on is no mistake of the command line."""

    happened = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Every worker can be started."""
        self.happened = True


def _newest(folder: Path) -> str:
    for checkpoint in saved([folder]):
        if is_whole(checkpoint.path):
            rank_zero_info("from %s", checkpoint.path)
            return str(checkpoint.path)
        rank_zero_warn(f"{checkpoint.path} is damaged; the one before it is taken")
    refuse(f"ckpt_path is {str(folder)!r}, a folder without a whole checkpoint (env_steps=N.ckpt)")


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
    show_nested_help(arguments)
    sys.argv[1:] = expand(arguments)
    logging.getLogger("callbacks").setLevel(logging.INFO)
    for noise in QUIET:
        warnings.filterwarnings("ignore", message=noise)
    for name in ("lightning_fabric", "pytorch_lightning"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_Quiet())
    try:
        return CLI()
    except SIGTERMException:  # it came before learning began
        raise SystemExit(143) from None
