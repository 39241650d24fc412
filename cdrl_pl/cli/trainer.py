"""The trainer that a command line makes: what it is given by default, its run folder, and its loggers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.merging import class_name
from cdrl_pl.system.hardware import fast_precision
from cdrl_pl.training.run_folder import CHECKPOINTS, assign, new_folder, run_folder

DEFAULTS: dict[str, Any] = {
    "max_steps": -1,
    "num_sanity_val_steps": 0,
    "enable_progress_bar": True,
    "enable_checkpointing": True,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "default_root_dir": "runs",
    "precision": fast_precision(),
}
CALLBACKS = {  # that every training has unless its config names one of the class: class path -> what switches it off
    "cdrl_pl.callbacks.AlignmentSchedule": None,
    "cdrl_pl.callbacks.DistillationSchedule": None,
    "cdrl_pl.callbacks.ActionDistributions": None,
    "cdrl_pl.callbacks.Progress": "enable_progress_bar",
    "cdrl_pl.callbacks.EnvStepsCheckpoint": "enable_checkpointing",
}
BARS = ("ProgressBar", "TQDMProgressBar", "RichProgressBar")  # of Lightning, in the place of callbacks.Progress
DEVICES = ("accelerator", "devices", "num_nodes", "strategy", "precision")  # options of the trainer that must agree
RUN_VERSION = "CDRL_PL_RUN_VERSION"  # tells the processes that a strategy launches which run folder it is


def with_defaults(trainer: Namespace) -> list[Namespace]:
    """The callbacks of a training: those that its config names, and of ``CALLBACKS`` what it names none of.

    What an option switches off is not there, whoever has named it.
    """
    given = trainer.callbacks or []
    given = list(given) if isinstance(given, list) else [given]
    off = {class_name(path) for path, option in CALLBACKS.items() if option and trainer[option] is False}
    kept = [callback for callback in given if class_name(callback["class_path"]) not in off]
    named = off | {class_name(callback["class_path"]) for callback in kept}
    if named & {*BARS}:
        named.add("Progress")
    return [*kept, *(Namespace(class_path=path) for path in CALLBACKS if class_name(path) not in named)]


class SavedConfig(SaveConfigCallback):
    """Writes ``config.yaml``, every option of the run, to its folder."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Once; whatever folders the loggers have."""
        folder = run_folder(trainer)
        if trainer.is_global_zero and not self.already_saved:
            self.parser.save(self.config, str(folder / self.config_filename), skip_none=False, overwrite=True)
        self.already_saved = True


def make_trainer(settings: Namespace, make: Callable[..., pl.Trainer]) -> pl.Trainer:
    """A trainer in a new run folder, which is Lightning's root, too: what it would resume there is no other run's.

    It logs to TensorBoard and a CSV file there unless the config names loggers; beside those, to the CSV file, of which
    reports are made. The saved config does not name the first two, so that a run started from it gets its own folder.

    Args:
        settings: of the config, for the trainer, its classes instantiated.
        make: makes it of the settings, and keywords over them.

    Raises:
        ConfigError: what torchrun has started and the options differ.
        MisconfigurationException: naming the options that Lightning's refusal may be about.
    """
    kwargs = _torchruns_world(settings) | _without_requeueing(settings) | {"max_epochs": _epochs(settings)}
    own, root = settings.logger in (None, True), Path(settings.default_root_dir or ".")
    folder = _folder(root)
    given = settings.callbacks or ()
    kwargs |= {
        "default_root_dir": str(folder),
        **{  # of Lightning's own kind, and only where a config names it; it refuses one that is switched off
            option: settings[option] is not False and any(isinstance(callback, kind) for callback in given)
            for option, kind in (("enable_progress_bar", ProgressBar), ("enable_checkpointing", ModelCheckpoint))
        },
    }
    for callback in given:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(folder / CHECKPOINTS)
    try:
        trainer = make(**kwargs, **({"logger": False} if own else {}))
    except (MisconfigurationException, ValueError) as error:  # Lightning's do not say which option they are about
        with suppress(OSError):  # a run that is refused leaves no folder; one that holds anything stays
            folder.rmdir()
            root.rmdir()
        chosen = ", ".join(f"{option} {settings[option]}" for option in DEVICES)
        raise MisconfigurationException(f"trainer ({chosen}): {error}") from error
    assign(trainer, folder)
    trainer.profiler.dirpath = trainer.profiler.dirpath or folder  # type: ignore[attr-defined]
    if (own or trainer.loggers) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        where: dict[str, Any] = {"save_dir": folder.parent, "name": "", "version": folder.name}
        table = CSVLogger(**where, flush_logs_every_n_steps=1)
        trainer.loggers = [*([TensorBoardLogger(**where)] if own else trainer.loggers), table]
    return trainer


def _epochs(settings: Namespace) -> int:
    """How many epochs a run has: as told, or one where batches are counted, or any number, up to T_max."""
    if settings.max_epochs is not None:
        return int(settings.max_epochs)
    limit = settings.limit_train_batches
    return 1 if isinstance(limit, int) or (limit or 0) > 1 else -1  # 1.0 is no number of batches, but all


def _folder(root: Path) -> Path:
    """A new run folder below ``root``; in a process that a strategy has launched, that of the run.

    Only rank 0 makes it. Another rank that was not launched by rank 0 (torchrun) logs nothing, and asks rank 0 for it.
    """
    if version := os.environ.get(RUN_VERSION):
        return root / version
    folder = root / "version" if getattr(rank_zero_only, "rank", 0) else new_folder(root)
    os.environ[RUN_VERSION] = folder.name
    return folder


def _torchruns_world(settings: Namespace) -> dict[str, Any]:
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


def _without_requeueing(settings: Namespace) -> dict[str, Any]:
    """Turns off what Lightning does by itself under Slurm where the config names no environment of its own.

    On a signal it would write a checkpoint of another kind and requeue the job; here a run that is told to end saves,
    and ``--ckpt_path`` with its folder goes on.
    """
    if settings.plugins is not None or not SLURMEnvironment.detect():
        return {}
    return {"plugins": [SLURMEnvironment(auto_requeue=False)]}
