"""Who advises, on what it reads, and what is made of its answer: the controls of a transfer, and its observations.

The controls say what a teacher's knowledge is worth: F learns to reproduce the student's own policy, so that a gain may
come from self-distillation or from plain regularisation rather than from the other task (spec section 7).
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdrl_pl.networks import PolicyNetwork

Advice = Literal["teacher", "random", "shuffled", "constant", "lagged", "own"]
Observations = Literal["none", "resize", "pad"]


def stand_in(advice: Advice, teacher: PolicyNetwork, student: PolicyNetwork) -> PolicyNetwork | None:
    """A frozen network that the transfer owns and asks in the teacher's place, or None where there is none.

    "random" has the teacher's structure and weights drawn anew (by the run's seed, without touching other draws);
    "lagged" is a copy of the student.
    """
    if advice == "random":
        with torch.random.fork_rng():
            torch.manual_seed(torch.initial_seed() + 1)
            made = PolicyNetwork(teacher.config, teacher.obs_shape, teacher.num_actions)
            for head in (made.policy_head, made.value_head, made.distill_head):
                head.reset_parameters()  # a learner's heads start near 0, which would be constant advice
    elif advice == "lagged":
        made = copy.deepcopy(student)
    else:
        return None
    return made.requires_grad_(False)


class Shuffle(nn.Module):
    """Permutes logits over the rows of a rollout; each time anew, by a seed, and goes on after a checkpoint."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed, self._draws = seed, 0

    def get_extra_state(self) -> Tensor:
        """How often it was asked: on the host, since a value read from a GPU would wait for it."""
        return torch.tensor(self._draws)

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on from ``get_extra_state``."""
        self._draws = int(state)

    def forward(self, advice: Tensor) -> Tensor:
        """[T, B, A] -> the same rows in another order, [T, B, A]."""
        make = torch.Generator().manual_seed((self._seed + 7_919 * self._draws) % 2**63)
        self._draws += 1
        order = torch.randperm(advice.shape[0] * advice.shape[1], generator=make)
        return advice.flatten(0, 1)[order.to(advice.device)].view_as(advice)


def check_observations(how: Observations, theirs: tuple[int, ...], own: tuple[int, ...]) -> None:
    """Whether a teacher that reads observations of shape ``theirs`` can be given ones of shape ``own``.

    Raises:
        ValueError: shapes that differ without an adapter, or that the adapter cannot bridge.
    """
    if theirs == own:
        return
    both = f"the teacher reads observations of shape {theirs}, the student's environment gives {own}"
    if how == "none":
        raise ValueError(f"{both}; they must be equal, or observations one of resize, pad")
    if len(theirs) != len(own) or (len(own) == 3 and theirs[0] != own[0]):
        raise ValueError(f"{both}; observations: {how} cannot bridge that, only sizes may differ")
    if how == "resize" and len(own) != 3:
        raise ValueError(f"{both}; observations: resize is for images, use pad")


def adapt(obs: Tensor, shape: tuple[int, ...], how: Observations) -> Tensor:
    """Observations [T, B, *own] as the teacher reads them, [T, B, *shape], of the same type.

    "resize" scales images (bilinear, antialiased); "pad" centres an image between zeros or cuts its middle out, and
    fills a vector with zeros at its end or cuts its end off.
    """
    if tuple(obs.shape[2:]) == shape:
        return obs
    if how == "resize":
        flat = obs.flatten(0, 1).float()
        scaled = F.interpolate(flat, size=shape[1:], mode="bilinear", antialias=True, align_corners=False)
        return scaled.round_().clamp_(0, 255).to(obs.dtype).view(*obs.shape[:2], *shape)
    pads: list[int] = []
    for have, want in zip(reversed(obs.shape[2:]), reversed(shape), strict=True):
        before = (want - have) // 2 if len(shape) == 3 else 0
        pads += [before, want - have - before]  # negative ones cut
    return F.pad(obs, pads)
