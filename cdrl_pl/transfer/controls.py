"""Control teachers: stand-ins for the teacher that show whether a gain comes from its knowledge.

F learns to reproduce the student's own policy, so that a gain may come from self-distillation or from plain
regularisation rather than from the other task (spec section 7).
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from cdrl_pl.checks import ConfigError
from cdrl_pl.networks import ONNX, PolicyNetwork
from cdrl_pl.types import TeacherOutput

Control = Literal["none", "random", "shuffled", "constant", "lagged", "own"]


def control_network(control: Control, teacher: PolicyNetwork, student: PolicyNetwork) -> PolicyNetwork | None:
    """A frozen network that the transfer owns and asks in the teacher's place, or None where there is none.

    Args:
        control: which stand-in; only "random" and "lagged" have a network of their own.
        teacher: whose structure "random" takes.
        student: whose copy "lagged" is.

    "random" has the teacher's structure and weights drawn anew (by the run's seed, without touching other draws);
    "lagged" is a copy of the student.

    Raises:
        ConfigError: the teacher has no weights that could be drawn.
    """
    if control == "random" and teacher.config.trunk == ONNX:
        raise ConfigError("control is 'random', but the teacher is an ONNX graph, which has no weights to draw anew")
    if control == "random":
        with torch.random.fork_rng():
            torch.manual_seed(torch.initial_seed() + 1)
            made = PolicyNetwork(teacher.config, teacher.obs_shape, teacher.num_actions)
            made.normaliser = teacher.normaliser  # its weights are drawn anew, not what it reads
            for head in (made.policy_head, made.value_head, made.distill_head):
                head.reset_parameters()  # a learner's heads start near 0, which would say the same in every state
    elif control == "lagged":
        made = copy.deepcopy(student)
    else:
        return None
    return made.requires_grad_(False)


class Shuffle(nn.Module):
    """Permutes what a teacher says over a rollout's rows; each time anew, by a seed, and goes on after a checkpoint."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed, self._draws = seed, 0

    def get_extra_state(self) -> Tensor:
        """How often it was asked: on the host, since a value read from a GPU would wait for it."""
        return torch.tensor(self._draws)

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on from ``get_extra_state``."""
        self._draws = int(state)

    def forward(self, output: TeacherOutput) -> TeacherOutput:
        """[T, B, ...] each -> the same rows in another order, one order for all."""
        make = torch.Generator().manual_seed((self._seed + 7_919 * self._draws) % 2**63)
        self._draws += 1
        logits = output.logits
        order = torch.randperm(logits.shape[0] * logits.shape[1], generator=make).to(logits.device)
        parts = (None if part is None else part.flatten(0, 1)[order].view_as(part) for part in output)
        return TeacherOutput(*parts)  # type: ignore[arg-type]
