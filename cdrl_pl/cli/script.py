"""The trainer of a script or a notebook, with the command line's defaults."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import CSVLogger

import cdrl_pl.callbacks as ours
from cdrl_pl.cli.quiet import quiet
from cdrl_pl.cli.trainer import BARS, CALLBACKS, DEFAULTS
from cdrl_pl.system.main_module import end_where_read_again
from cdrl_pl.training.board import Board
from cdrl_pl.training.datamodule import RolloutDataModule
from cdrl_pl.training.run_folder import assign, new_folder


class Trainer(pl.Trainer):
    """Lightning's trainer with what the command line adds: callbacks, loggers, a run folder, settings for endless
    rollouts.

    Usage::

        module = Collaboration({"pole": Agent(Env("CartPole-v1"), Network("mlp", depth=2, hidden=64, lstm=0))})
        trainer = Trainer(accelerator="cpu")
        trainer.fit(module)    # into runs/version_N, which is module.run_folder
        trainer.test(module)   # module.evaluator.scores, and scores.json there

    Args:
        callbacks: beside those that every training needs (``cdrl_pl.callbacks``), or in the place of one of its class.
        logger: true for TensorBoard and a CSV file in the run's folder, false for none, or loggers.
        default_root_dir: folder in which the run gets a folder of its own, ``version_N``.
        max_epochs: epochs (log lines) after which the run ends, if not at T_max; -1: any number.
        options: of Lightning's trainer.
    """

    def __init__(
        self,
        *,
        callbacks: pl.Callback | Iterable[pl.Callback] = (),
        logger: Any = True,
        default_root_dir: str | Path = "runs",
        max_epochs: int = -1,
        **options: Any,
    ) -> None:
        end_where_read_again()
        given = [callbacks] if isinstance(callbacks, pl.Callback) else list(callbacks)
        options = {**DEFAULTS, **options}
        named = {type(callback).__name__ for callback in given}
        if named & {*BARS}:
            named.add("Progress")
        for path, option in CALLBACKS.items():
            name = path.rpartition(".")[2]
            if name not in named and (option is None or options[option] is not False):
                given.append(getattr(ours, name)())
        for option, kind in (("enable_progress_bar", ProgressBar), ("enable_checkpointing", ModelCheckpoint)):
            options[option] = any(isinstance(callback, kind) for callback in given)  # Lightning's own kind
        first = getattr(rank_zero_only, "rank", 0) in (0, None)  # others are told the folder by rank 0
        options["default_root_dir"] = str(default_root_dir)
        own = logger is True or logger is None
        with quiet():
            super().__init__(callbacks=given, logger=False if own else logger, max_epochs=max_epochs, **options)
        if own and first and not self.fast_dev_run:  # type: ignore[attr-defined]
            folder = new_folder(Path(default_root_dir))
            assign(self, folder)
            where: dict[str, Any] = {"save_dir": folder.parent, "name": "", "version": folder.name}
            self.loggers = [Board(**where), CSVLogger(**where, flush_logs_every_n_steps=1)]
        self._data: RolloutDataModule | None = None

    def _with_data(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """A data module with its defaults, where none is given; the same one for all that the trainer does."""
        if keywords.get("datamodule") is None and not any(name.endswith("dataloaders") for name in keywords):
            self._data = self._data or RolloutDataModule()
            return {**keywords, "datamodule": self._data}
        return keywords

    def fit(self, model: pl.LightningModule, *args: Any, **keywords: Any) -> None:
        """As Lightning's; without ``datamodule`` the pool has its defaults."""
        with quiet():
            super().fit(model, *args, **(keywords if args else self._with_data(keywords)))

    def validate(self, *args: Any, **keywords: Any) -> Any:
        """As Lightning's; scores are shown by a table of their own."""
        with quiet():
            return super().validate(*args, **self._with_data({"verbose": False, **keywords}))

    def test(self, *args: Any, **keywords: Any) -> Any:
        """As Lightning's; scores are shown by a table of their own."""
        with quiet():
            return super().test(*args, **self._with_data({"verbose": False, **keywords}))

    def predict(self, *args: Any, **keywords: Any) -> Any:
        """As Lightning's: the paths of the videos."""
        with quiet():
            return super().predict(*args, **self._with_data(keywords))
