"""The teacher: reads the student's observations with a recurrent state of its own, and says what it would do."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor

from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.types import Rollout, TeacherOutput


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
    def forward(
        self, network: PolicyNetwork, rollout: Rollout, feed_student_state: bool = False, with_features: bool = False
    ) -> TeacherOutput:
        """What would the expert of alpha do here, on the student's observations?

        Args:
            network: of the agent that teaches; a live one changes as that agent learns.
            rollout: the student's.
            feed_student_state: start from the student's recurrent state instead of the teacher's own (the authors'
                program).
            with_features: what its heads read is wanted, too.
        """
        steps = rollout.steps
        state = rollout.state if feed_student_state else self.states.get(rollout.worker)
        if state is None or state.shape[0] != rollout.copies:
            state = network.initial_state(rollout.copies)
        read = rollout.obs[:steps], state.to(rollout.obs.device), rollout.resets[:steps]
        if not with_features:
            output = network(*read)
            self.states[rollout.worker] = output.state
            return TeacherOutput(output.logits)
        features, self.states[rollout.worker] = network.features(*read)
        with torch.autocast(features.device.type, enabled=False):  # as the network itself has its heads
            return TeacherOutput(network.policy_head(features), features)
