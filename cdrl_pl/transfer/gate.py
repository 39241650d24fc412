"""Gates: how much of a lesson counts in each state, by what the teacher's logits say of its certainty there."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from cdrl_pl.distributions import Counts, entropy

Gate = Literal["none", "entropy", "energy"]
GATES: tuple[Gate, ...] = ("none", "entropy", "energy")


@torch.no_grad()
def row_weights(gate: Gate, teacher_logits: Tensor, counts: Counts = ()) -> Tensor | None:
    """Weights of the rows of a lesson, 0 to 1: [T, B]; None where every row counts in full.

    "entropy" is the teacher's certainty, 1 - H(softmax(z)) / ln k: 1 where it would play one action, 0 where all are as
    likely (an adviser's uncertainty decides also in Da Silva, Hernandez-Leal, Kartal, Taylor 2020, "Uncertainty-aware
    action advising for deep reinforcement learning agents"; theirs is the student's).
    "energy" is its familiarity, the logistic function of logsumexp(z), standardised over the rows: inputs like those of
    its training have the lower energy -logsumexp(z) (Liu, Wang, Owens, Li 2020, "Energy-based out-of-distribution
    detection"). It is relative: about half of every rollout counts.

    Args:
        gate: which.
        teacher_logits: [T, B, k_alpha].
        counts: of the actions of each choice, where several are made at once.
    """
    logits = teacher_logits.float()
    if gate == "none":
        return None
    if gate == "entropy":
        most = sum(math.log(count) for count in counts or (logits.shape[-1],))
        return (1.0 - entropy(logits, counts) / most).clamp(0.0, 1.0)
    parts = logits.split(list(counts), -1) if counts else (logits,)
    familiarity = torch.stack([part.logsumexp(-1) for part in parts]).sum(0)
    centred = familiarity - familiarity.mean()
    spread = centred.square().mean().sqrt().clamp_min(1e-6)
    return torch.sigmoid(centred / spread)
