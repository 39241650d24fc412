"""A student's game as its teacher reads it: through its own view, or through the student's, adapted in size."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from cdrl_pl.agents.agent import Agent
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvSpec, describe

Observations = Literal["none", "resize", "pad"]


def seen_by_teacher(teacher: Agent, student: Agent) -> EnvSpec | None:
    """The student's task as the teacher's view sees it; None where that is the student's own view, or cannot be had.

    Args:
        teacher: who reads.
        student: who plays.
    """
    if teacher.view == student.view:
        return None
    try:
        spec = describe(replace(student.env, view=teacher.view))
    except ConfigError:
        return None
    same = (spec.obs_shape, spec.obs_dtype) == (teacher.spec.obs_shape, teacher.spec.obs_dtype)
    return spec if same else None


def check_observations(how: Observations, theirs: tuple[int, ...], own: tuple[int, ...]) -> None:
    """Refuses observations that the teacher cannot be given.

    Args:
        how: the adapter.
        theirs: shape that the teacher reads.
        own: shape that the student's environment gives.

    Raises:
        ConfigError: shapes that differ without an adapter, or that the adapter cannot bridge.
    """
    if theirs == own:
        return
    both = f"the teacher reads observations of shape {theirs}, the student's environment gives {own}"
    if how == "none":
        raise ConfigError(
            f"{both}, and not what the teacher's view makes of a game; they must be equal, or observations one of "
            "resize, pad"
        )
    if len(theirs) != len(own) or (len(own) == 3 and theirs[0] != own[0]):
        raise ConfigError(f"{both}; observations: {how} cannot bridge that, only sizes may differ")
    if how == "resize" and len(own) != 3:
        raise ConfigError(f"{both}; observations: resize is for images, use pad")


def adapt(obs: Tensor, shape: tuple[int, ...], how: Observations) -> Tensor:
    """Observations [T, B, *own] as the teacher reads them, [T, B, *shape], of the same type.

    "resize" scales images (bilinear, antialiased); "pad" centres an image between zeros or cuts its middle out, and
    fills a vector with zeros at its end or cuts its end off.

    Args:
        obs: [T, B, *own].
        shape: that the teacher reads.
        how: the adapter.
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
