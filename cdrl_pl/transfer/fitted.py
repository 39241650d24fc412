"""Alignment functions without weights, fitted to running sums over both policies: baselines of the deep one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cdrl_pl.distributions import Counts, log_softmax
from cdrl_pl.transfer.ground_truth import FLOOR

KEPT = 0.99  # share of the sums that is kept from one update of the student to the next
RANGE = 20.0  # nats between the largest logit and the least that the affine map knows
RIDGE = 1e-6  # of the affine map, as a share of the mean square of what it reads


class FittedAlignment(nn.Module):
    """An F that is a matrix, made of sums over the rows seen while alignment trains; older rows fade.

    Args:
        teacher_counts: of the teacher's actions of each choice; (k_alpha,) where one is made.
        student_counts: of the student's; (k_beta,) where one is made.
    """

    kept: Tensor
    matrix: Tensor

    def __init__(self, teacher_counts: Counts, student_counts: Counts) -> None:
        super().__init__()
        self.counts = (teacher_counts, student_counts)
        teacher_logits, policy_logits = (torch.zeros(1, 1, sum(counts)) for counts in self.counts)
        nothing = torch.zeros_like(self.sums(teacher_logits, policy_logits))
        self.register_buffer("kept", nothing)
        self.register_buffer("matrix", self.unfitted())

    def sums(self, teacher_logits: Tensor, policy_logits: Tensor) -> Tensor:
        """What is summed over the rows of [T, B, k_alpha] and [T, B, k_beta]: [N] fp64; ranks add theirs up."""
        raise NotImplementedError

    def unfitted(self) -> Tensor:
        """The matrix of an F that has seen nothing: all of the student's actions alike."""
        raise NotImplementedError

    def fit(self) -> Tensor:
        """The matrix by the sums that are kept."""
        raise NotImplementedError

    @torch.no_grad()
    def add(self, sums: Tensor) -> None:
        """Fits F to these sums and, less so, to those before."""
        self.kept.mul_(KEPT).add_(sums)
        self.matrix.copy_(self.fit())


class SortedTransport(FittedAlignment):
    """The teacher's actions and the student's, each in the order of their mean probabilities, matched as they stand.

    F(z) = log(softmax(z) M). Row i of M says where the probability of the teacher's action i goes, by the optimal
    transport of one vector of mean probabilities to the other when both are laid out on a line from the most to the
    least likely, under any convex cost on it (Peyre and Cuturi 2019, "Computational optimal transport", section 2.6).
    Over the states the aligned teacher then plays each action as often as the student does.
    """

    def unfitted(self) -> Tensor:
        """[k_alpha, k_beta], each choice by itself."""
        return _blocks(torch.full((k, n), 1.0 / n) for k, n in zip(*self.counts, strict=True))

    def sums(self, teacher_logits: Tensor, policy_logits: Tensor) -> Tensor:
        """Probabilities of the teacher's actions, then of the student's: [k_alpha + k_beta]."""
        both = zip((teacher_logits, policy_logits), self.counts, strict=True)
        return torch.cat([log_softmax(logits, counts).double().exp().sum((0, 1)) for logits, counts in both])

    def fit(self) -> Tensor:
        """[k_alpha, k_beta]."""
        theirs, own = self.kept.split([sum(counts) for counts in self.counts])
        choices = zip(theirs.split(self.counts[0]), own.split(self.counts[1]), strict=True)
        return _blocks(_transport(p / p.sum(), q / q.sum()) for p, q in choices)

    def forward(self, teacher_logits: Tensor) -> Tensor:
        """[..., k_alpha] -> [..., k_beta] fp32."""
        log_p = log_softmax(teacher_logits, self.counts[0])
        mixed: Tensor = torch.logsumexp(log_p.unsqueeze(-1) + self.matrix.log(), -2)
        return mixed.clamp_min(math.log(FLOOR))


def _blocks(parts: Iterable[Tensor]) -> Tensor:
    """Matrices along the diagonal of one."""
    blocks: Tensor = torch.block_diag(*parts)  # type: ignore[no-untyped-call]
    return blocks


def _transport(p: Tensor, q: Tensor) -> Tensor:
    """Where each unit of p [k] goes, in shares [k, n] of which p makes q [n]: the overlaps of the sorted intervals."""
    (p, theirs), (q, own) = (part.sort(descending=True, stable=True) for part in (p, q))
    p_end, q_end = p.cumsum(0)[:, None], q.cumsum(0)[None]
    overlap = torch.minimum(p_end, q_end) - torch.maximum(p_end - p[:, None], q_end - q[None])
    moved = overlap.clamp_min(0.0)
    shares = moved / moved.sum(-1, keepdim=True).clamp_min(1e-300)
    return shares[theirs.argsort()][:, own.argsort()]


class LeastSquares(FittedAlignment):
    """The affine map of the teacher's logits that is nearest to the student's, in the mean square over the states.

    Logits are centred within each choice, since no policy depends on their mean, and cut where they are far below the
    largest, as those of actions that may not be played are.
    """

    def unfitted(self) -> Tensor:
        """[k_alpha + 1, k_beta]; the last row is what is added."""
        return torch.zeros(sum(self.counts[0]) + 1, sum(self.counts[1]))

    def _read(self, teacher_logits: Tensor) -> Tensor:
        centred = _centred(teacher_logits, self.counts[0])
        return torch.cat([centred, torch.ones_like(centred[..., :1])], -1)

    def sums(self, teacher_logits: Tensor, policy_logits: Tensor) -> Tensor:
        """Products of what it reads with itself and with what it is to say: [(k_alpha + 1) (k_alpha + 1 + k_beta)]."""
        read = self._read(teacher_logits).double().flatten(0, 1)
        wanted = _centred(policy_logits, self.counts[1]).double().flatten(0, 1)
        return (read.T @ torch.cat([read, wanted], -1)).flatten()

    def fit(self) -> Tensor:
        """[k_alpha + 1, k_beta]: the normal equations, with a ridge, since centred logits alone have many solutions."""
        inputs, outputs = self.matrix.shape
        squares, products = self.kept.view(inputs, -1).split([inputs, outputs], -1)
        ridge = RIDGE * squares.diagonal().mean() * torch.eye(inputs, dtype=squares.dtype, device=squares.device)
        found: Tensor = torch.linalg.solve_ex(squares + ridge, products)[0]  # not looked at, so no GPU is waited for
        return found

    def forward(self, teacher_logits: Tensor) -> Tensor:
        """[..., k_alpha] -> [..., k_beta] fp32."""
        with torch.autocast(teacher_logits.device.type, enabled=False):
            return self._read(teacher_logits) @ self.matrix


def _centred(logits: Tensor, counts: Counts) -> Tensor:
    """Logits fp32 whose mean over each choice is 0, and none more than ``RANGE`` below the largest."""
    parts = [part.maximum(part.amax(-1, keepdim=True) - RANGE) for part in logits.float().split(list(counts), -1)]
    return torch.cat([part - part.mean(-1, keepdim=True) for part in parts], -1)


FITTED: dict[str, type[FittedAlignment]] = {"sorted": SortedTransport, "affine": LeastSquares}
