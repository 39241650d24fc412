"""What every running game offers, and what both kinds of game share. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec

Array = np.ndarray[Any, Any]


class Game(Protocol):
    """One running copy of a task. Observations are written into the caller's memory."""

    spec: EnvSpec

    def reset(self, out: Array) -> None:
        """Starts an episode."""

    def step(self, action: int, out: Array) -> tuple[float, bool, bool]:
        """Plays one decision: reward, terminated, truncated. ``out`` gets the observation after it, final ones too."""

    def snapshot(self) -> dict[str, Any]:
        """Where the game stands, as plain numbers and arrays: no pickles."""

    def restore(self, snapshot: dict[str, Any], out: Array) -> None:
        """Goes on from a snapshot of a game of the same config."""

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


def resize(frame: Array, crop: tuple[int, int] | None, out: Array) -> None:
    """A grey frame [H, W] cropped by rows and resized into ``out`` [1, S, S]."""
    import cv2

    if crop is not None:
        frame = frame[crop[0] : crop[1]]
    cv2.resize(frame, (out.shape[2], out.shape[1]), dst=out[0], interpolation=cv2.INTER_AREA)
