"""Parts of a user's own, as they are named by their class paths."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Wide(nn.Module):
    """A trunk of vectors."""

    def __init__(self, obs_shape: tuple[int, ...], width: int = 6) -> None:
        super().__init__()
        self.layer = nn.Linear(obs_shape[0], width)

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.layer(obs))


class Normalising(Wide):
    """Its statistics change as it learns."""

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__(obs_shape)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, obs: Tensor) -> Tensor:
        return self.norm(super().forward(obs) + 1.0)


class Threefold(Wide):
    """Gives features of three dimensions."""

    def forward(self, obs: Tensor) -> Tensor:
        return super().forward(obs).unsqueeze(-1)


class Empty(nn.Module):
    """Has no parameters."""

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()


def no_module(*_: object) -> object:
    return object()


class Affine(nn.Module):
    """An alignment function."""

    def __init__(self, teacher_actions: int, student_actions: int, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(teacher_actions, student_actions, bias)

    def forward(self, logits: Tensor) -> Tensor:
        return self.layer(logits)


class Reversed(nn.Module):
    """An alignment function with nothing to train."""

    def __init__(self, teacher_actions: int, student_actions: int) -> None:
        super().__init__()

    def forward(self, logits: Tensor) -> Tensor:
        return logits.flip(-1)


class Balancing(nn.Module):
    """A policy of CartPole: pushes to the side to which the pole falls."""

    def __init__(self, obs_shape: tuple[int, ...], certainty: float = 4.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(certainty * torch.tensor([0.0, 0.2, 3.0, 1.0]))

    def forward(self, obs: Tensor) -> Tensor:
        side = obs @ self.weight
        return torch.stack([-side, side], -1)
