"""Running normalisation of observations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normaliser(nn.Module):
    """Running mean and deviation of every number of an observation, in whose units it is read; without gradient.

    The statistics of all rows so far are joined exactly with those of new ones (Chan, Golub, LeVeque 1983, "Algorithms
    for computing the sample variance"). What is read is cut off at ``clip`` deviations. Before the first row,
    observations are read as they are.

    Args:
        shape: of an observation; N numbers.
        clip: in standard deviations.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int], clip: float = 10.0) -> None:
        super().__init__()
        self.clip, self._dims, size = clip, len(shape), math.prod(shape)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, obs: Tensor) -> Tensor:
        """[..., *observation] -> the same in fp32."""
        scaled: Tensor = (obs.flatten(-self._dims).float() - self.mean) * (self.variance + 1e-8).rsqrt()
        return scaled.clamp(-self.clip, self.clip).view(obs.shape)

    def sums(self, rows: Tensor) -> Tensor:
        """What ``add`` needs of rows [M, *observation]: [2N + 1] in fp64.

        Sums, sums of squares about the mean so far, and M.
        """
        about = rows.flatten(-self._dims).double() - self.mean.double()
        return torch.cat([about.sum(0), about.square().sum(0), about.new_tensor([len(rows)])])

    def add(self, sums: Tensor) -> None:
        """Joins new rows to those so far, by their ``sums`` (added up over ranks)."""
        total, squares, new = sums[: len(self.mean)], sums[len(self.mean) : -1], sums[-1]
        old, shift = self.count.double(), total / new
        within = self.variance.double() * old + squares - new * shift.square()
        between = shift.square() * old * new / (old + new)
        self.variance.copy_((within + between) / (old + new))
        self.mean.copy_(self.mean.double() + shift * new / (old + new))
        self.count.copy_(old + new)
