"""Advantages and returns of a rollout. Shapes: T steps, B environment copies; time-major."""

from __future__ import annotations

import torch
from torch import Tensor


def next_values(values: Tensor, terminated: Tensor, truncated: Tensor, final_values: Tensor) -> Tensor:
    """v_{t+1} as the recursions need it: 0 after a terminal, V(s_T) after a truncation, else the next row's value.

    Args:
        values: [T+1, B]; row T values the state after the rollout.
        terminated: [T, B] bool.
        truncated: [T, B] bool.
        final_values: [T, B]; read only where truncated (and not terminated).
    """
    following = torch.where(truncated, final_values, values[1:])
    return following.masked_fill(terminated, 0.0)


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and discounted returns (paper Algorithm 1, lines 16-20; Schulman et al. 2016).

    delta_t = r_t + gamma v_{t+1} - v_t;  A_t = delta_t + gamma lam A_{t+1};  R_t = r_t + gamma R_{t+1}.
    Nothing leaks across an episode's end: there A and R start anew, from 0 after a terminal and from the value of the
    last observation after a truncation. With lam = 1, A_t = R_t - v_t.

    Args:
        rewards: [T, B], in points.
        values: [T+1, B]; row T values the state after the rollout.
        terminated: [T, B] bool.
        truncated: [T, B] bool.
        final_values: [T, B]; read only where truncated (and not terminated).
        gamma: discount per decision, 0 to 1.
        lam: GAE's lambda, 0 to 1.

    Returns:
        Advantages [T, B] and returns [T, B], in the dtype of ``values`` and without gradient.
    """
    _check_shapes(rewards, values, terminated=terminated, truncated=truncated, final_values=final_values)
    with torch.no_grad():
        following = next_values(values, terminated, truncated, final_values)
        ends = terminated | truncated
        goes_on = (~ends).to(values.dtype)
        deltas = rewards + gamma * following - values[:-1]
        advantages = _backwards(deltas, gamma * lam * goes_on, torch.zeros_like(values[0]))
        returns = _backwards(rewards + gamma * following.masked_fill(~ends, 0.0), gamma * goes_on, values[-1])
    return advantages, returns


def vtrace(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_values: Tensor,
    log_ratios: Tensor,
    gamma: float,
    lam: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets corrected for policy lag (Espeholt et al. 2018, IMPALA, section 4).

    With rho_t = min(rho_clip, ratio_t), c_t = lam min(c_clip, ratio_t) and ratio_t = pi(a_t|s_t) / mu(a_t|s_t):
    v_t - V_t = rho_t delta_t + gamma c_t (v_{t+1} - V_{t+1});  A_t = rho_t (delta_t + gamma lam (v_{t+1} - V_{t+1})).
    Episodes end as in ``gae``. Where pi = mu and both clips are 1 or more, A_t is GAE's for every lam and v_t = V_t +
    A_t, so with lam = 1 both are what ``gae`` gives. (The paper's own A_t has no lam; the two agree at lam = 1.)

    Args:
        rewards: [T, B], in points.
        values: [T+1, B]; row T values the state after the rollout.
        terminated: [T, B] bool.
        truncated: [T, B] bool.
        final_values: [T, B]; read only where truncated (and not terminated).
        log_ratios: [T, B], log pi(a_t|s_t) - log mu(a_t|s_t) of the learner's policy pi and the one that played, mu.
        gamma: discount per decision, 0 to 1.
        lam: lambda, 0 to 1.
        rho_clip: upper bound of rho_t, without unit: decides which policy's value is learned, pi's or one nearer to mu.
            Both clips bound the variance.
        c_clip: upper bound of the ratio in c_t, without unit: how far corrections reach back.

    Returns:
        Advantages [T, B] and value targets [T, B], in the dtype of ``values`` and without gradient.
    """
    ends = {"terminated": terminated, "truncated": truncated, "final_values": final_values}
    _check_shapes(rewards, values, **ends, log_ratios=log_ratios)
    with torch.no_grad():
        ratios = log_ratios.to(values.dtype).exp()
        rhos, cs = ratios.clamp(max=rho_clip), lam * ratios.clamp(max=c_clip)
        deltas = rewards + gamma * next_values(values, terminated, truncated, final_values) - values[:-1]
        goes_on = (~(terminated | truncated)).to(values.dtype)
        corrections = _backwards(rhos * deltas, gamma * cs * goes_on, torch.zeros_like(values[0]))  # v_t - V_t
        ahead = torch.cat([corrections[1:], torch.zeros_like(values[:1])])  # v_{t+1} - V_{t+1}
        advantages = rhos * (deltas + gamma * lam * goes_on * ahead)
        targets = values[:-1] + corrections
    return advantages, targets


def _backwards(added: Tensor, factor: Tensor, last: Tensor) -> Tensor:
    """x [T, B] with x_t = added_t + factor_t x_{t+1}, from x_T = ``last`` [B]: one operation per step."""
    x, found = last, []
    for t in range(len(added) - 1, -1, -1):
        x = torch.addcmul(added[t], factor[t], x)
        found.append(x)
    return torch.stack(found[::-1])


def _check_shapes(rewards: Tensor, values: Tensor, **others: Tensor) -> None:
    steps, copies = rewards.shape
    if values.shape != (steps + 1, copies):
        raise ValueError(f"values must have shape {(steps + 1, copies)}, got {tuple(values.shape)}")
    for name, tensor in others.items():
        if tensor.shape != rewards.shape:
            raise ValueError(
                f"{name} must have the shape of rewards, {tuple(rewards.shape)}, got {tuple(tensor.shape)}"
            )
