"""The interface of every running game, and what both kinds of game share. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec

Array = np.ndarray[Any, Any]


class Game(Protocol):
    """One running copy of a task. Observations are written into the caller's memory."""

    spec: EnvSpec
    decisions_per_second: float
    """How fast it runs where a person plays it."""

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


def check_crop(config: EnvConfig, rows: int) -> None:
    """Refuses a ``config.crop`` that does not lie within a picture.

    Args:
        config: of the task.
        rows: height of the picture, in pixels.

    Raises:
        EnvError: naming both.
    """
    if config.crop is not None and config.crop[1] > rows:
        raise EnvError(f"env.crop is {config.crop}; {config.id} has {rows} rows")


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


@lru_cache
def area_weights(source: int, target: int) -> Array:
    """How much of each of ``source`` pixels in a row each of ``target`` pixels is the mean of, [T, S] float32.

    The pattern repeats every gcd(source, target)-th of both; one period of it.
    """
    periods = math.gcd(source, target)
    source, target = source // periods, target // periods
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(covered.clip(0.0) * target / source, np.float32)


def resize(frame: Array, crop: tuple[int, int] | None, out: Array) -> None:
    """Crops a grey frame by rows and resizes it into ``out``: the mean of the area covered.

    Two small matrix products: in half the time of OpenCV's INTER_AREA, and equal to it but for the last grey level
    (docs/performance.md).

    Args:
        frame: [H, W] uint8.
        crop: first and last row of pixels that are kept, the last excluded; None keeps all.
        out: [1, S, S], which is filled.
    """
    if crop is not None:
        frame = frame[crop[0] : crop[1]]
    by_row, by_column = area_weights(frame.shape[0], out.shape[1]), area_weights(frame.shape[1], out.shape[2])
    blocks = frame.reshape(-1, by_row.shape[1], frame.shape[1]).astype(np.float32)
    grey = (by_row @ blocks).reshape(-1, by_column.shape[1]) @ by_column.T
    out[...] = np.rint(grey, out=grey).reshape(out.shape)
