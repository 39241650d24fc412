"""The schedules of the transfers: alignment training on at T1, distillation on at T2, both off at stop."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info

from cdrl_pl.schedule import aligns, distils
from cdrl_pl.training.board import note
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.switches import TransferSwitch
from cdrl_pl.transfer.transfer import Transfer


class _Switch(TransferSwitch):
    """Sets one flag of every transfer before each batch, and remembers at which T it changed."""

    mark = ""  # of the schedule, at which the flag goes on

    def __init__(self) -> None:
        self.switched: dict[str, list[int]] = {}  # transfer -> every T at which the flag changed

    def wanted(self, transfer: Transfer, env_steps: int) -> bool:
        """Returns whether the flag is on at T; a pure function of the schedule."""
        raise NotImplementedError

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the flag of every transfer by its student's T."""
        assert isinstance(pl_module, Collaboration)
        for transfer in pl_module.transfers:
            env_steps = pl_module.env_steps[transfer.config.student]
            on = self.wanted(transfer, env_steps)
            changes = self.switched.setdefault(transfer.name, [])
            if on != bool(len(changes) % 2):
                changes.append(env_steps)
                state = "on" if on else "off"
                rank_zero_info("%s %s of %s at T = %d", self.what, state, transfer.name, env_steps)
                mark = self.mark if on else "stop"
                said = f"{mark}: {self.what} of {transfer.name} is switched {state} at T = {env_steps:,}"
                note(pl_module, f"{transfer.name} {self.what}", said, env_steps)
            setattr(transfer, self.what, on)

    def state_dict(self) -> dict[str, Any]:
        """Every T at which a flag changed."""
        return {"switched": {k: list(v) for k, v in self.switched.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self.switched = {k: list(v) for k, v in state_dict["switched"].items()}


class AlignmentSchedule(_Switch):
    """Alignment training: T1 <= T < stop, T being the student's own decisions."""

    what, mark = "aligning", "T1"

    def wanted(self, transfer: Transfer, env_steps: int) -> bool:
        """T1 <= T < stop."""
        return aligns(transfer.schedule, env_steps)


class DistillationSchedule(_Switch):
    """Distillation: T2 <= T < stop, T being the student's own decisions."""

    what, mark = "distilling", "T2"

    def wanted(self, transfer: Transfer, env_steps: int) -> bool:
        """T2 <= T < stop."""
        return distils(transfer.schedule, env_steps)
