"""The interface of every running game, and what both kinds of game share. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec
from cdrl_pl.envs.view import Array


class Game(Protocol):
    """One running copy of a task, seen through one view or several.

    Each observation is written into the caller's memory: ``outs`` has an array for every view, the agent's own first.
    """

    spec: EnvSpec
    decisions_per_second: float
    """How fast it runs where a person plays it."""
    mask: Array | None
    """Which actions may be played now, [A] bool; None where the game does not say."""
    goes_on: bool
    """Whether only a life ended with the last episode; then the next one is of the same game."""

    def reset(self, *outs: Array) -> None:
        """Starts an episode."""

    def step(self, action: Any, *outs: Array) -> tuple[float, bool, bool]:
        """Plays one decision: reward, terminated, truncated. ``outs`` get the observation after it, final ones too.

        ``action`` is an index, or one for each choice where several are made at once.
        """

    def snapshot(self) -> dict[str, Any]:
        """Where the game stands, as plain numbers and arrays: no pickles."""

    def restore(self, snapshot: dict[str, Any], *outs: Array) -> None:
        """Goes on from a snapshot of a game of the same config and views."""

    def render(self) -> Array:
        """The current picture [H, W, 3] uint8."""

    def close(self) -> None:
        """Frees it."""


def chosen_actions(config: EnvConfig, own: Sequence[Any]) -> list[Any]:
    """What ``config.actions`` picks of what the game has per action of its own.

    Raises:
        EnvError: an index that the game does not have.
    """
    if config.actions is None:
        return list(own)
    if max(config.actions) >= len(own):
        raise EnvError(f"env.actions is {list(config.actions)}; {config.id} has the actions 0 to {len(own) - 1}")
    return [own[i] for i in config.actions]


def check_finite(config: EnvConfig, obs: Array, rewards: Array | None = None) -> None:
    """Refuses what a policy could not learn from, nor be scored on.

    Args:
        config: of the task, for its name.
        obs: [B, *observation].
        rewards: [B].

    Raises:
        FloatingPointError: naming the task, and the copy.
    """
    for what, values in (("reward", rewards), ("observation", obs)):
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(np.argwhere(~np.isfinite(values))[0][0])
            raise FloatingPointError(f"{config.id} gave a {what} that is not finite (copy {bad})")


def number(config: EnvConfig, reward: Any) -> float:
    """A reward as a number, also where it comes as an array of one.

    Raises:
        EnvError: it is several numbers, or none.
    """
    array = np.asarray(reward)
    if array.size != 1:
        raise EnvError(f"env.id {config.id!r} gave the reward {reward!r}; it must be one number")
    return float(array.item())
