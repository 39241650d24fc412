"""The losses of the paper as pure functions of one value per step [T, B]; ``reduce`` is the one place that reduces."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from cdrl_pl.distributions import Counts, log_prob, log_softmax

Reduction = Literal["sum", "mean"]
Divergence = Literal["forward", "reverse", "jensen_shannon"]


def _same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"shapes must be equal, got {shapes}")


def reduce(per_step: Tensor, reduction: Reduction) -> Tensor:
    """Reduces [T, B] to a scalar: "sum" over time (the paper) or "mean" over time, and the mean over copies either way.

    One copy (B = 1) under "sum" is the paper's sum over a rollout; with more copies their gradients are averaged, so
    the learning rate does not depend on B.

    Args:
        per_step: one value per step, [T, B].
        reduction: "sum" or "mean" over time.
    """
    if per_step.ndim != 2:
        raise ValueError(f"expected [T, B], got shape {tuple(per_step.shape)}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is {reduction!r}; it must be sum or mean")
    return per_step.mean(1).sum() if reduction == "sum" else per_step.mean()


def policy_loss(logits: Tensor, actions: Tensor, advantages: Tensor, counts: Counts = ()) -> Tensor:
    """-log pi(a_t | s_t) A_t (Algorithm 1, line 21).

    Args:
        logits: [T, B, A].
        actions: [T, B] int64, or [T, B, K] where K choices are made.
        advantages: [T, B]; no gradient flows through them.
        counts: of the actions of each choice.

    Returns:
        [T, B].
    """
    _same_shape(actions=actions[..., 0] if counts else actions, advantages=advantages, logits=logits[..., 0])
    return -log_prob(logits, actions, counts) * advantages.detach()


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """(R_t - v_t)^2 (Algorithm 1, line 22): [T, B] from two [T, B]; no gradient flows through the returns."""
    _same_shape(values=values, returns=returns)
    return (returns.detach() - values.float()).square()


def kl(target: Tensor, student: Tensor, temperature: float = 1.0, counts: Counts = ()) -> Tensor:
    """l_KL(target, student, tau) = sum_i p_i ln(p_i / q_i), p = softmax(target / tau), q = softmax(student) (Eqs. 1-3).

    tau divides the target only. The target is detached. Computed in log space in fp32, so it and its gradient stay
    finite for any logit gap that fp32 can hold (checked at +-120).

    Args:
        target: logits [T, B, A] of the target; no gradient flows through them.
        student: logits [T, B, A] over the same actions.
        temperature: tau above 0, without unit.
        counts: of the actions of each choice, whose divergences are summed.

    Returns:
        [T, B], 0 where both distributions are equal.
    """
    log_p, log_q = _log_probabilities(target, student, temperature, counts)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(target: Tensor, student: Tensor, temperature: float = 1.0, counts: Counts = ()) -> Tensor:
    """KL(softmax(student) || softmax(target / tau)): the authors' program for the alignment (spec section 6).

    It seeks a mode of the target where ``kl`` covers all of them. The gradient flows through ``student`` alone.

    Args:
        target: logits [T, B, A] of the target; no gradient flows through them.
        student: logits [T, B, A] over the same actions.
        temperature: tau above 0, without unit.
        counts: of the actions of each choice, whose divergences are summed.
    """
    log_p, log_q = _log_probabilities(target, student, temperature, counts)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def jensen_shannon(target: Tensor, student: Tensor, temperature: float = 1.0, counts: Counts = ()) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2 (Lin 1991, "Divergence measures based on the Shannon entropy").

    Symmetric, and never above ln 2 however far the two are apart; its gradient vanishes there. The gradient flows
    through ``student`` alone.

    Args:
        target: logits [T, B, A] of the target; no gradient flows through them.
        student: logits [T, B, A] over the same actions.
        temperature: tau above 0, without unit.
        counts: of the actions of each choice, whose divergences are summed.
    """
    log_p, log_q = _log_probabilities(target, student, temperature, counts)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)


def divergence(
    kind: Divergence, target: Tensor, student: Tensor, temperature: float = 1.0, counts: Counts = ()
) -> Tensor:
    """One of the three [T, B]; all three are compared for distillation by Agarwal et al. 2024 (On-policy distillation).

    Args:
        kind: "forward" is ``kl``, "reverse" is ``reverse_kl``, "jensen_shannon" lies between them.
        target: logits [T, B, A] of the target; no gradient flows through them.
        student: logits [T, B, A] over the same actions.
        temperature: tau above 0, without unit.
        counts: of the actions of each choice, whose divergences are summed.
    """
    if kind not in DIVERGENCES:
        raise ValueError(f"divergence is {kind!r}; it must be one of {', '.join(DIVERGENCES)}")
    return DIVERGENCES[kind](target, student, temperature, counts)


DIVERGENCES = {"forward": kl, "reverse": reverse_kl, "jensen_shannon": jensen_shannon}


def _log_probabilities(target: Tensor, student: Tensor, temperature: float, counts: Counts) -> tuple[Tensor, Tensor]:
    """ln p (detached) and ln q of ``kl``, in fp32."""
    _same_shape(target=target, student=student)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    return log_softmax(target.detach().float() / temperature, counts), log_softmax(student, counts)
