"""The folder of a run's own files: fresh, and the same on every rank, whatever loggers the run has."""

from __future__ import annotations

import re
from pathlib import Path
from weakref import WeakKeyDictionary

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

CHECKPOINTS = "checkpoints"  # a folder below a run's; where a logger made the run's folder, it marks it as taken
_FOLDERS: WeakKeyDictionary[pl.Trainer, Path] = WeakKeyDictionary()  # of the trainers of this process


def new_folder(root: Path) -> Path:
    """Makes the first free ``version_N`` below ``root``; two runs that start together get two folders."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [int(m[1]) for p in root.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", p.name))]
        folder = root / f"version_{max(taken, default=-1) + 1}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def assign(trainer: pl.Trainer, folder: Path) -> None:
    """Says which folder a trainer's run has, where that was decided before: the command line makes it beforehand."""
    _FOLDERS[trainer] = folder


def run_folder(trainer: pl.Trainer) -> Path:
    """The folder of a trainer's own files, for all that it does. To be called on every rank: rank 0 decides.

    It is the one that the command line made; else that of the first logger, where that has one (CSV, TensorBoard) and
    no run before has taken it; else a new one below ``default_root_dir``.
    """
    if trainer.is_global_zero and trainer not in _FOLDERS:
        _FOLDERS[trainer] = _taken(trainer) or new_folder(Path(trainer.default_root_dir))
    return Path(trainer.strategy.broadcast(str(_FOLDERS.get(trainer))))


def _taken(trainer: pl.Trainer) -> Path | None:
    """The folder of the first logger, from now on this run's; None where there is none, or it is another run's."""
    if not isinstance(trainer.logger, CSVLogger | TensorBoardLogger):
        return None
    folder = Path(trainer.logger.log_dir)
    try:
        (folder / CHECKPOINTS).mkdir(parents=True)
    except FileExistsError:
        return None
    return folder
