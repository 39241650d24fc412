"""Checkpoints to resume from, by env_steps."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from cdrl_pl.checks import check_options
from cdrl_pl.storage.atomic import write_whole
from cdrl_pl.storage.checkpoints import is_whole
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.run_folder import CHECKPOINTS


class WholeFileIO(TorchCheckpointIO):
    """Checkpoints that are whole or not there, wherever the run is killed or the disk is full.

    Lightning's own are staged in the system's temporary folder, and copied where that is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Makes the folder.

        Raises:
            OSError: it cannot be written; names the file. What was there before is untouched.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), buffer.getbuffer())
        if not is_whole(Path(path)):
            raise OSError(errno.EIO, "what was written cannot be read back", str(path))


class EnvStepsCheckpoint(pl.Callback):
    """Saves ``checkpoints/env_steps=N.ckpt`` in the run folder, at the end, and when the run is told to stop.

    Args:
        every: Decisions between two checkpoints.
        keep: Number of newest checkpoints that are kept; older ones are deleted once a newer one is whole on disk.
    """

    def __init__(self, every: int = 250_000, keep: int = 2) -> None:
        self.every, self.keep = every, keep
        check_options("EnvStepsCheckpoint.", self, [(o, getattr(self, o) >= 1, "1 or more") for o in ("every", "keep")])
        self.saved: list[str] = []
        self._last = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Moves itself to the end, so that what the others did after a batch is in the checkpoint taken after it."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        trainer.callbacks = [c for c in trainer.callbacks if c is not self] + [self]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts from where the run begins, also on resume."""
        assert isinstance(pl_module, Collaboration)
        self._last = pl_module.clock

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where T passed a multiple of ``every``."""
        assert isinstance(pl_module, Collaboration)
        if pl_module.clock // self.every > self._last // self.every:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves what came after the last checkpoint."""
        assert isinstance(pl_module, Collaboration)
        if pl_module.clock > self._last:
            self._save(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Saves where the run was told to end while it waited (between two batches), not where it failed."""
        assert isinstance(pl_module, Collaboration)
        if isinstance(exception, Stopped | SIGTERMException) and pl_module.clock > self._last:
            self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, module: Collaboration) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = module.run_folder / CHECKPOINTS / f"env_steps={module.clock}.ckpt"
        own = [p for p in self.saved if Path(p).parent == path.parent]  # not those of the run that this one resumed
        self.saved = [p for p in own if p != str(path)] + [str(path)]
        trainer.save_checkpoint(path)
        self._last = module.clock
        if module.stop_request.requested:
            rank_zero_info("saved %s", path)
        while len(self.saved) > self.keep:
            old = self.saved.pop(0)
            if trainer.is_global_zero:
                Path(old).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """The paths of the checkpoints that are kept."""
        return {"saved": list(self.saved)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self.saved = list(state_dict["saved"])
