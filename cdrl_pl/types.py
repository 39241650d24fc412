"""The records that cross module boundaries. Shapes: T steps, B environment copies, A actions, S recurrent state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


class PolicyOutput(NamedTuple):
    """What a policy network says about a rollout; logits and values are always fp32."""

    logits: Tensor  # [T, B, A] policy logits
    distill_logits: Tensor  # [T, B, A] logits of the distillation layer; they never decide an action
    values: Tensor  # [T, B]
    state: Tensor  # [B, S] recurrent state after the last step


class Episode(NamedTuple):
    """A finished episode: the game's own return (never clipped) and its length in decisions."""

    ret: float
    length: int


@dataclass(frozen=True)
class Rollout:
    """T steps of B copies of one environment, played by one worker with one version of the policy.

    Row t holds what was seen before action t; row T of ``obs`` and ``resets`` is where the next rollout starts.
    Every row is a real transition: an ended episode is reset within the same step.
    """

    obs: Tensor  # [T+1, B, *observation] uint8 (images, channels first) or float32 (vectors)
    resets: Tensor  # [T+1, B] bool, always on the host: this observation is the first of an episode
    actions: Tensor  # [T, B] int64
    rewards: Tensor  # [T, B] float32, the game's own
    terminated: Tensor  # [T, B] bool
    truncated: Tensor  # [T, B] bool
    final_values: Tensor  # [T, B] float32: V(last observation of the episode) where truncated, else 0
    log_probs: Tensor  # [T, B] float32: of the actions, under the policy that played them
    state: Tensor  # [B, S] float32: the student's recurrent state before row 0
    worker: int = 0
    policy_version: int = 0
    policy_lag: int = 0  # versions between the policy that played it and the newest
    episodes: tuple[Episode, ...] = ()

    @property
    def steps(self) -> int:
        """T, the number of decisions of each copy."""
        return self.actions.shape[0]

    @property
    def copies(self) -> int:
        """B, the number of environment copies."""
        return self.actions.shape[1]

    def tensors(self) -> dict[str, Any]:
        """The tensor fields by name."""
        return {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}

    def to(self, *args: Any, **kwargs: Any) -> Rollout:
        """The same rollout with every tensor moved, as ``Tensor.to``, but for ``resets``.

        Those decide at which rows the memory is cut: read from a GPU, they would make every forward pass wait for it.
        """
        return replace(self, **{k: v.to(*args, **kwargs) for k, v in self.tensors().items() if k != "resets"})

    def select(self, copies: slice) -> Rollout:
        """The given copies only (a view)."""
        return replace(
            self, **{k: v[copies] if k == "state" else v[:, copies] for k, v in self.tensors().items()}, episodes=()
        )

    def split(self, copies: int | None) -> Iterator[slice]:
        """Slices over the copies, ``copies`` in each (all of them where None)."""
        size = min(copies or self.copies, self.copies)
        for start in range(0, self.copies, size):
            yield slice(start, min(start + size, self.copies))

    def clone(self) -> Rollout:
        """A copy that owns its memory."""
        return replace(self, **{k: v.clone() for k, v in self.tensors().items()})


def join(rollouts: list[Rollout]) -> Rollout:
    """Consecutive rollouts of one worker as one longer rollout (spec section 6, row "rollouts")."""
    first, last = rollouts[0], rollouts[-1]
    joined: dict[str, Any] = {}
    for name, value in first.tensors().items():
        if name in ("obs", "resets"):
            parts = [getattr(r, name)[: r.steps] for r in rollouts] + [getattr(last, name)[last.steps :]]
            joined[name] = torch.cat(parts)
        elif name == "state":
            joined[name] = value
        else:
            joined[name] = torch.cat([getattr(r, name) for r in rollouts])
    return replace(first, **joined, episodes=tuple(e for r in rollouts for e in r.episodes))
