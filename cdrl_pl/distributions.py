"""Categorical distributions given by logits: samples, log probabilities, entropies, what they say of the state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray[Any, Any]


def sample(logits: Array, draws: Array) -> tuple[Array, Array]:
    """Actions [B] from softmax(logits [B, A]) by inverse transform of ``draws`` [B], uniform in [0, 1); and their log
    probabilities [B]."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    edges = np.exp(log_p, dtype=np.float64).cumsum(-1)
    actions = (edges <= draws[:, None] * edges[:, -1:]).sum(-1)
    return actions, np.take_along_axis(log_p, actions[:, None], -1)[:, 0]


def log_prob(logits: Tensor, actions: Tensor) -> Tensor:
    """log pi(a) [T, B] of ``actions`` [T, B] under ``logits`` [T, B, A]."""
    return F.log_softmax(logits.float(), -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats, positive: [T, B] from logits [T, B, A]."""
    log_p = F.log_softmax(logits.float(), -1)
    return -(log_p.exp() * log_p).sum(-1)


def action_statistics(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What a policy does on average, and how much of it depends on the state; without gradient.

    Args:
        logits: [T, B, A].

    Returns:
        The mean probabilities [A] (the paper's Figure 5), and in nats the mutual information of state and action over
        the rows, each as likely as another: H(mean pi) - mean H(pi), from 0 (the same in every state) to ln A. A
        teacher, or an F, near 0 has nothing to say of the state, whatever it knows.
    """
    with torch.no_grad():
        probabilities = F.softmax(logits.float(), -1).flatten(0, -2)
        mean = probabilities.mean(0)
        within = torch.xlogy(probabilities, probabilities).sum() / len(probabilities)  # minus the mean entropy
        return mean, (within - torch.xlogy(mean, mean).sum()).clamp(min=0.0)
