"""The Lightning command line: short options, and defaults that fit endless rollouts."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

from cdrl_pl.agents.certificate import CERTIFICATE
from cdrl_pl.checks import SEEDS, ConfigError, is_seed, whole
from cdrl_pl.cli.config_files import ConfigFiles, take_files
from cdrl_pl.cli.errors import Parser, clean_errors, refuse
from cdrl_pl.cli.help import add_short_options, correct_help, show_nested_help
from cdrl_pl.cli.import_guard import CONFIG_FILES, ImportRefusedError, check_imports
from cdrl_pl.cli.merging import class_name
from cdrl_pl.cli.options import PROGRAM, SEED, SHORT
from cdrl_pl.cli.whole_numbers import whole_numbers
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
SEED_VARIABLE = "PL_GLOBAL_SEED"
# What a run leaves in the environment for the processes that a strategy launches, and what strategies leave there.
OWN = (
    RUN_VERSION, SEED_VARIABLE, "PL_SEED_WORKERS", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR",
    "MASTER_PORT",
)  # fmt: skip
PRINT, PRINT_FLAGS = "--print_config", ("skip_default", "skip_unset")
TEACHER, ENV, IMPORTS = "--teacher", "--env", "--imports"
CALLBACKS = {  # that every training has unless its config names one of the class: class path -> what switches it off
    "cdrl_pl.callbacks.AlignmentSchedule": None,
    "cdrl_pl.callbacks.DistillationSchedule": None,
    "cdrl_pl.callbacks.ActionDistributions": None,
    "cdrl_pl.callbacks.Progress": "enable_progress_bar",
    "cdrl_pl.callbacks.EnvStepsCheckpoint": "enable_checkpointing",
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
        configs, others = take_files(rest)
        named = [word.partition("=")[2] or word for word in others]
        files = [Path(name) for name in (*configs, *named) if name in configs or name.endswith(CONFIG_FILES)]
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
        """The short options, and the seed, whose values ``resolved_seed`` checks."""
        add_short_options(parser)
        parser.add_argument("--seed_everything", type=Any, default=True, metavar="SEED", help=SEED)

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning's, with what this command line says of its options."""
        super().setup_parser(*args, **kwargs)
        for parser in self._subcommand_parsers.values():
            correct_help(parser)
        for command in ("validate", "test"):
            self._subcommand_parsers[command].set_defaults(verbose=False)  # the scores have a table of their own

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """The whole config of the run, of all config files and the options over them.

        Where ``--print_config`` asks for it, it is printed, and that is all.
        """
        words, flags = _take_print(sys.argv[1:] if args is None else args)
        files = ConfigFiles()
        with clean_errors(), whole_numbers():
            self.config = parser.parse_args(files.as_one(words))
            self._add_callbacks(parser)
        settings = self.config[self.config.subcommand]
        settings.seed_everything = resolved_seed(settings.seed_everything)
        self._find_checkpoint(settings)
        if flags is not None:
            print(self._parser(self.config.subcommand).dump(settings, **{"skip_unset": False, **flags}), end="")
            raise SystemExit(0)
        with clean_errors():
            _check_found(settings.model, files)

    def _add_callbacks(self, parser: LightningArgumentParser) -> None:
        """Adds the callbacks that every training needs, where the config names none of their class."""
        if self.config.subcommand != "fit":
            return
        trainer = self.config.fit.trainer
        given = trainer.callbacks or []
        given = list(given) if isinstance(given, list) else [given]
        named = {class_name(callback["class_path"]) for callback in given}
        for path, option in CALLBACKS.items():
            wanted = option is None or trainer[option] is not False
            if wanted and class_name(path) not in named:
                given.append(Namespace(class_path=path))
        self.config = parser.parse_object({"fit": {"trainer": {"callbacks": given}}}, self.config)

    def _find_checkpoint(self, settings: Namespace) -> None:
        """A run's folder stands for its newest whole checkpoint."""
        path = settings.get("ckpt_path")
        if path and Path(path).is_dir():
            settings.ckpt_path = _newest(Path(path))
        elif path and not Path(path).is_file():
            refuse(f"ckpt_path is {path!r}, which is no file, nor the folder of a run")
        elif path and not is_whole(Path(path)):
            refuse(f"ckpt_path is {path!r}, which is damaged, or no checkpoint; its folder may hold an older one")

    def _parse_ckpt_path(self) -> None:
        """Nothing: flags given beside a checkpoint hold over what is in it."""

    def instantiate_classes(self) -> None:
        """As Lightning's, but what a constructor refuses is said without a traceback.

        The run's seed stays with the data module, which may be used on where the run has ended.
        """
        with clean_errors():
            super().instantiate_classes()
        if self.datamodule.seed is None:
            self.datamodule.seed = self.config[self.subcommand].seed_everything

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
            with suppress(OSError):  # a run that is refused leaves no folder; one that holds anything stays
                (Path(root) / version).rmdir()
                Path(root).rmdir()
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


def _take_print(words: list[str]) -> tuple[list[str], dict[str, bool] | None]:
    """The words without ``--print_config``, and what is to be left out of what it prints; None: nothing is printed.

    Beside a command alone, it is the parser's: it prints every option with its default.
    """
    asked = [word for word in words if word.partition("=")[0] == PRINT]
    rest = [word for word in words if word not in asked]
    if not asked or len(rest) < 2:
        return words, None
    flags = [flag for word in asked for flag in word.partition("=")[2].split(",") if flag]
    for flag in flags:
        if flag not in PRINT_FLAGS:
            refuse(f"{PRINT} is {flag!r}; it must be nothing, or some of {', '.join(PRINT_FLAGS)}")
    return rest, dict.fromkeys(flags, True)


def resolved_seed(given: Any) -> int:
    """The seed that a run is given; true and null stand for that of the environment, or else 0."""
    name = "seed_everything"
    if given is True or given is None:
        name, given = SEED_VARIABLE, os.environ.get(SEED_VARIABLE) or 0
    if not is_seed(seed := whole(given)):
        refuse(f"{name} is {given!r}; it must be {SEEDS}{', or true' if name != SEED_VARIABLE else ''}")
    return int(seed)


def _check_found(model: Namespace, files: ConfigFiles) -> None:
    """Refuses stored teachers and alignments that are nowhere, and says where they were looked for."""
    for name, agent in dict(model.agents).items():
        if path := agent.get("certificate"):
            files.check_found(f"model.agents.{name}.certificate", path, CERTIFICATE)
    for index, transfer in enumerate(model.transfers or []):
        if path := transfer.alignment.get("file"):
            files.check_found(f"model.transfers[{index}].alignment.file", path)


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


@contextmanager
def _restored() -> Iterator[None]:
    """Leaves this process as it was before a run: its words, environment and signals, what it warns of and logs."""
    words, environment = sys.argv, {name: os.environ.get(name) for name in OWN}
    quiet = _Quiet()
    handlers = [h for name in ("lightning_fabric", "pytorch_lightning") for h in logging.getLogger(name).handlers]
    main = threading.current_thread() is threading.main_thread()
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT) if main}
    with warnings.catch_warnings():
        for noise in QUIET:
            warnings.filterwarnings("ignore", message=noise)
        for handler in handlers:
            handler.addFilter(quiet)
        try:
            yield
        finally:
            sys.argv = words
            for number, action in signals.items():
                signal.signal(number, action)
            for handler in handlers:
                handler.removeFilter(quiet)
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def run(arguments: list[str]) -> CLI:
    """Runs one command line; returns it with its finished ``model``, ``datamodule`` and ``trainer``.

    Each call has a run folder of its own, and leaves the process as it was.

    Raises:
        SystemExit: 2 where an option or its value is wrong, with the reason on the standard error; 143 where the run
            was ended by SIGTERM.
    """
    with _restored():
        sys.argv = [*sys.argv[:1], *arguments]  # what a refusal is about
        show_nested_help(arguments)
        sys.argv = [*sys.argv[:1], *expand(arguments)]
        try:
            return CLI()
        except SIGTERMException:  # it came before learning began
            raise SystemExit(143) from None
