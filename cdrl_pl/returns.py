"""Advantages and returns of a rollout. Shapes: T steps, B environment copies; time-major."""

from __future__ import annotations

import torch
from torch import Tensor


def next_values(values: Tensor, terminated: Tensor, truncated: Tensor, final_values: Tensor) -> Tensor:
    """v_{t+1} as the recursions need it: 0 after a terminal, V(s_T) after a truncation, else the next row's value.

    Args:
        values: [T+1, B]; row T values the state after the rollout.
        terminated, truncated: [T, B] bool.
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
        rewards: [T, B]. values: [T+1, B]. terminated, truncated: [T, B] bool. final_values: [T, B].
        gamma: discount per decision. lam: GAE's lambda.

    Returns:
        Advantages [T, B] and returns [T, B], in the dtype of ``values`` and without gradient.
    """
    steps, copies = rewards.shape
    if values.shape != (steps + 1, copies):
        raise ValueError(f"values must have shape {(steps + 1, copies)}, got {tuple(values.shape)}")
    for name, tensor in (("terminated", terminated), ("truncated", truncated), ("final_values", final_values)):
        if tensor.shape != rewards.shape:
            raise ValueError(
                f"{name} must have the shape of rewards, {tuple(rewards.shape)}, got {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        following = next_values(values, terminated, truncated, final_values)
        goes_on = (~(terminated | truncated)).to(values.dtype)
        deltas = rewards + gamma * following - values[:-1]
        advantages, returns = torch.empty_like(deltas), torch.empty_like(deltas)
        advantage = torch.zeros_like(values[0])
        ret = values[-1]
        for t in range(steps - 1, -1, -1):
            advantage = deltas[t] + (gamma * lam) * goes_on[t] * advantage
            ret = rewards[t] + gamma * torch.where(goes_on[t].bool(), ret, following[t])
            advantages[t], returns[t] = advantage, ret
    return advantages, returns
