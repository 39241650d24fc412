"""Distributions given by logits: samples, log probabilities, entropies, what they say of the state.

A policy chooses one action, or several at once (MultiDiscrete): then its logits are those of each choice side by side,
``counts`` says how many there are of each, and the choices are independent, so that log probabilities, entropies and
divergences are sums over them. Empty ``counts`` are one choice among all logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray[Any, Any]
Counts = tuple[int, ...]

IMPOSSIBLE = -1e9  # the logit of an action that may not be played: of probability 0 in fp32, and finite


def log_softmax(logits: Tensor, counts: Counts = ()) -> Tensor:
    """Log probabilities [..., A] fp32 of logits [..., A], each choice's own."""
    if not counts:
        return F.log_softmax(logits.float(), -1)
    return torch.cat([F.log_softmax(part, -1) for part in logits.float().split(list(counts), -1)], -1)


def starts(counts: Counts) -> list[int]:
    """Index of the first logit of each choice."""
    return [sum(counts[:i]) for i in range(len(counts))]


def sample(logits: Array, draws: Array, counts: Counts = ()) -> tuple[Array, Array]:
    """Actions from logits [B, A] by inverse transform, and their log probabilities [B].

    Args:
        logits: [B, A].
        draws: uniform in [0, 1), [B], or [B, K] where K choices are made; the actions have its shape.
        counts: of the actions of each choice.
    """
    if counts:
        ends = np.cumsum(counts)[:-1]
        parts = [sample(part, draws[:, i]) for i, part in enumerate(np.split(logits, ends, -1))]
        return np.stack([actions for actions, _ in parts], -1), np.sum([log_p for _, log_p in parts], 0)
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    edges = np.exp(log_p, dtype=np.float64).cumsum(-1)
    actions = (edges <= draws[:, None] * edges[:, -1:]).sum(-1)
    return actions, np.take_along_axis(log_p, actions[:, None], -1)[:, 0]


def most_probable(logits: Array, counts: Counts = ()) -> Array:
    """The most probable actions [B] of logits [B, A], or [B, K] where K choices are made."""
    if not counts:
        return np.asarray(logits.argmax(-1))
    return np.stack([part.argmax(-1) for part in np.split(logits, np.cumsum(counts)[:-1], -1)], -1)


def log_prob(logits: Tensor, actions: Tensor, counts: Counts = ()) -> Tensor:
    """log pi(a) [T, B] of ``actions`` [T, B], or [T, B, K] where K choices are made, under ``logits`` [T, B, A]."""
    log_p = log_softmax(logits, counts)
    if not counts:
        return log_p.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return log_p.gather(-1, actions + torch.tensor(starts(counts), device=actions.device)).sum(-1)


def entropy(logits: Tensor, counts: Counts = ()) -> Tensor:
    """Entropy in nats, positive: [T, B] from logits [T, B, A]."""
    log_p = log_softmax(logits, counts)
    return -(log_p.exp() * log_p).sum(-1)


def action_statistics(logits: Tensor, counts: Counts = ()) -> tuple[Tensor, Tensor]:
    """What a policy does on average, and how much of it depends on the state; without gradient.

    Args:
        logits: [T, B, A].
        counts: of the actions of each choice, whose information is summed.

    Returns:
        The mean probabilities [A] (the paper's Figure 5), and in nats the mutual information of state and action over
        the rows, each as likely as another: H(mean pi) - mean H(pi), from 0 (the same in every state) to ln A. A
        teacher, or an F, near 0 has nothing to say of the state, whatever it knows.
    """
    with torch.no_grad():
        probabilities = log_softmax(logits, counts).exp().flatten(0, -2)
        mean = probabilities.mean(0)
        within = torch.xlogy(probabilities, probabilities).sum() / len(probabilities)  # minus the mean entropy
        return mean, (within - torch.xlogy(mean, mean).sum()).clamp(min=0.0)
