"""The Lightning command line: short options, and defaults that fit endless rollouts."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from cdrl_pl.checks import SEEDS, is_seed, whole
from cdrl_pl.cli.config_files import ConfigFiles, take_files
from cdrl_pl.cli.elastic import left_unfinished, mark, unmark
from cdrl_pl.cli.errors import Parser, clean_errors, refuse
from cdrl_pl.cli.help import add_short_options, correct_help, show_nested_help
from cdrl_pl.cli.import_guard import CONFIG_FILES, ImportRefusedError, check_imports
from cdrl_pl.cli.options import PROGRAM, SEED, SHORT, TRACK
from cdrl_pl.cli.quiet import quiet
from cdrl_pl.cli.trackers import TRACKERS, add_tracker, check_tracker
from cdrl_pl.cli.trainer import DEFAULTS, RUN_VERSION, SavedConfig, make_trainer, with_defaults
from cdrl_pl.cli.trust import ask_for_trust
from cdrl_pl.cli.whole_numbers import whole_numbers
from cdrl_pl.shipped import located
from cdrl_pl.storage.checkpoints import is_whole, newest
from cdrl_pl.storage.stored import stored
from cdrl_pl.system.stop import SIGNALS, Stopped, end_at_once_when_told
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.datamodule import RolloutDataModule
from cdrl_pl.training.trainer_options import check_trainer_options

SEED_VARIABLE = "PL_GLOBAL_SEED"
# What a run leaves in the environment for the processes that a strategy launches, and what strategies leave there.
OWN = (
    RUN_VERSION, SEED_VARIABLE, "PL_SEED_WORKERS", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR",
    "MASTER_PORT",
)  # fmt: skip
PRINT, PRINT_FLAGS = "--print_config", ("skip_default", "skip_unset")
TEACHER, ENV, TRUST, IMPORTS = "--teacher", "--env", "--trust", "--imports"


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
    """``--teacher FOLDER [--env ID] [--trust A,B]`` spelled out: a graph of one frozen agent, which plays that task."""
    values, rest = _take(arguments, TEACHER, ENV, TRUST)
    if not values:
        return arguments
    if TEACHER not in values:
        refuse(f"{next(iter(values))} is of {TEACHER}; in a config it is an option of an agent")
    agent: dict[str, Any] = {"certificate": values[TEACHER]}
    if ENV in values:
        agent["env"] = {"id": values[ENV]}
    if TRUST in values:
        agent["trust"] = [name.strip() for name in values[TRUST].split(",")]
    return [*rest[:1], f"--model.agents={json.dumps({'teacher': agent})}", *rest[1:]]


class CLI(LightningCLI):
    """``LightningCLI`` whose runs write below one folder, and whose flags hold on resume."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            Collaboration,
            RolloutDataModule,
            parser_class=Parser,
            parser_kwargs={"prog": PROGRAM, "allow_abbrev": False},
            save_config_callback=SavedConfig,
            auto_configure_optimizers=False,
            trainer_defaults=DEFAULTS,
            **kwargs,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The short options, and the seed, whose values ``resolved_seed`` checks."""
        add_short_options(parser)
        parser.add_argument("--seed_everything", type=Any, default=True, metavar="SEED", help=SEED)
        parser.add_argument("--track", type=Literal[TRACKERS] | None, default=None, help=TRACK)  # type: ignore[valid-type]

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
        for named in stored(settings.model):
            named.within[named.key] = located(named.path)
        if flags is not None:
            print(self._parser(self.config.subcommand).dump(settings, **{"skip_unset": False, **flags}), end="")
            raise SystemExit(0)
        with clean_errors():
            check_trainer_options(settings.trainer.get)
            check_tracker(settings.track if self.config.subcommand == "fit" else None)
            for named in stored(settings.model):
                files.check_found(named)
            ask_for_trust(settings.model.agents, plays=self.config.subcommand != "fit")

    def _add_callbacks(self, parser: LightningArgumentParser) -> None:
        """Adds the callbacks that every training needs, where the config names none of their class."""
        if self.config.subcommand != "fit":
            return
        callbacks = with_defaults(self.config.fit.trainer)
        self.config = parser.parse_object({"fit": {"trainer": {"callbacks": callbacks}}}, self.config)

    def _find_checkpoint(self, settings: Namespace) -> None:
        """A run's folder stands for its newest whole checkpoint; what torchrun starts again goes on by itself."""
        path = settings.get("ckpt_path")
        root = Path(settings.trainer.default_root_dir or ".")
        if self.config.subcommand == "fit" and (left := left_unfinished(root)):
            rank_zero_info("torchrun has started this again: from %s", left.path)
            settings.ckpt_path = path = str(left.path)
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
        """As Lightning's, in a new run folder; see ``make_trainer``. A training's tracker stands behind its loggers."""
        settings = self.config_init[self.subcommand]
        trainer = make_trainer(settings.trainer, super().instantiate_trainer)
        if settings.track and self.subcommand == "fit":
            add_tracker(trainer, settings.track)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        began = Began()
        self.trainer.callbacks.append(began)  # type: ignore[attr-defined]
        try:
            with (
                clean_errors(lambda: began.happened),
                suppress(Stopped),
            ):  # learning ends without it, where a batch ends
                super()._run_subcommand(subcommand)
        finally:
            with suppress(OSError):  # a run that wrote nothing (fast_dev_run) leaves no folder
                Path(self.trainer.default_root_dir).rmdir()
        if self.model.stop_request.requested:
            raise SystemExit(self.model.stop_request.exit_code)
        if self.trainer.is_global_zero and began.happened:
            unmark(Path(self.trainer.default_root_dir).parent)


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


class Began(pl.Callback):
    """Notes that the run is under way: what goes wrong from then on is no mistake of the command line."""

    happened = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Every worker can be started."""
        self.happened = True
        if trainer.is_global_zero:
            mark(Path(trainer.default_root_dir))


def _newest(folder: Path) -> str:
    found = newest([folder], lambda path: rank_zero_warn(f"{path} is damaged; the one before it is taken"))
    if found is not None:
        rank_zero_info("from %s", found.path)
        return str(found.path)
    refuse(f"ckpt_path is {str(folder)!r}, a folder without a whole checkpoint (env_steps=N.ckpt)")


@contextmanager
def restored() -> Iterator[None]:
    """Leaves this process as it was before a run: its words, environment and signals, what it warns of and logs."""
    words, environment = sys.argv, {name: os.environ.get(name) for name in OWN}
    main = threading.current_thread() is threading.main_thread()
    signals = {number: signal.getsignal(number) for number in SIGNALS if main}
    with quiet():
        try:
            yield
        finally:
            sys.argv = words
            for number, action in signals.items():
                signal.signal(number, action)
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def run(arguments: list[str]) -> CLI:
    """Runs one command line; returns it with its finished ``model``, ``datamodule`` and ``trainer``.

    Each call has a run folder of its own, and leaves the process as it was.

    Raises:
        SystemExit: 2 where an option or its value is wrong, with the reason on the standard error; 143 where the run
            was ended by SIGTERM, 130 by Ctrl-C; 1 where the disk is full.
    """
    with restored():
        sys.argv = [*sys.argv[:1], *arguments]  # what a refusal is about
        end_at_once_when_told()
        show_nested_help(arguments)
        sys.argv = [*sys.argv[:1], *expand(arguments)]
        return CLI()
