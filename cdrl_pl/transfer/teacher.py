"""The teacher: reads the student's observations with a recurrent state of its own, and says what it would do."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor

from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.types import Rollout


class Teacher(pl.LightningModule):
    """One teacher of one student: its recurrent state on each of the student's environment copies.

    The state is the teacher's own: it starts at zero when the transfer starts, goes from rollout to rollout of the same
    worker, and is zeroed wherever the student's episode begins. The network itself, live or certificated, belongs to
    the agent that teaches, and is handed in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, Tensor] = {}  # worker -> [B, S]

    @torch.no_grad()
    def forward(self, network: PolicyNetwork, rollout: Rollout, feed_student_state: bool = False) -> Tensor:
        """Logits [T, B, k_alpha] on the student's observations: what would the expert of alpha do here?

        Args:
            network: of the agent that teaches; a live one changes as that agent learns.
            rollout: the student's.
            feed_student_state: start from the student's recurrent state instead of the teacher's own (the authors'
                program).
        """
        steps = rollout.steps
        state = rollout.state if feed_student_state else self.states.get(rollout.worker)
        if state is None or state.shape[0] != rollout.copies:
            state = network.initial_state(rollout.copies)
        output = network(rollout.obs[:steps], state.to(rollout.obs.device), rollout.resets[:steps])
        self.states[rollout.worker] = output.state
        logits: Tensor = output.logits
        return logits
