"""What tests of transfers share."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from graphs import transfer as edge
from torch import Tensor

from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.presets import PRESETS, Preset
from cdrl_pl.transfer.teacher import Teacher
from cdrl_pl.transfer.transfer import Transfer
from cdrl_pl.types import Rollout

PAPER = PRESETS["paper"]


def join(
    teacher: PolicyNetwork, student: PolicyNetwork, kind: str = "deep", preset: Preset = PAPER, **options: Any
) -> Transfer:
    """A transfer between two networks, whose ``ask`` asks them."""
    torch.manual_seed(1)
    made = Transfer(edge("alpha", "beta", kind, **options), teacher, student, preset)
    made.ask = partial(made.ask, teacher=teacher, student=student)  # type: ignore[method-assign]
    return made


class TeacherOf:
    """A teacher with the network that it asks."""

    def __init__(self, network: PolicyNetwork) -> None:
        self.network, self.teacher = network, Teacher()

    @property
    def states(self) -> dict[int, Tensor]:
        return self.teacher.states

    def __call__(self, rollout: Rollout, feed_student_state: bool = False) -> Tensor:
        logits: Tensor = self.teacher(self.network, rollout, feed_student_state).logits
        return logits
