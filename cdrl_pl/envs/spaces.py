"""Gymnasium's observation spaces as views read them. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from cdrl_pl.envs.config import EnvError
from cdrl_pl.envs.pictures import picture
from cdrl_pl.envs.view import Array, Reading, View

READABLE = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of those"


def reading(view: View, space: Any, game: str) -> Reading:
    """How a view reads what a space holds: pictures and planes as uint8 [C, H, W], all else as float32 [N].

    Args:
        view: what is made of it.
        space: of the observations.
        game: its name, for messages.

    Raises:
        EnvError: a space that cannot be read, or an option of the view that has no effect on it.
    """
    read = _Reader(view, game)
    found = read.joined(space) if isinstance(_parts(space), Mapping) else read.one(space)
    for option in fields(View):
        if option.name not in read.used and getattr(view, option.name) != option.default:
            raise EnvError(
                f"env.view.{option.name} is {getattr(view, option.name)}, but {game} gives no {_NEEDS[option.name]}; "
                "leave it out"
            )
    return found


_NEEDS = {
    "crop": "images",
    "size": "images",
    "colour": "images in colour",
    "maximum": "frames between decisions, as Atari does",
    "keys": "Dict observations",
    "codes": "grids of whole numbers [H, W, N]",
    "one_hot": "grids of whole numbers [H, W, N]",
}


def _parts(space: Any) -> Any:
    """The spaces within a Dict by key, or within a Tuple by index; the space itself where it is neither."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return dict(space.spaces)
    return {str(i): part for i, part in enumerate(space.spaces)} if isinstance(space, spaces.Tuple) else space


class _Reader:
    """Reads spaces by one view, and keeps which of the view's options had an effect."""

    def __init__(self, view: View, game: str) -> None:
        self.view, self.game = view, game
        self.used = {"stack", "size"}  # the size has a default, which says nothing of a game without images

    def joined(self, space: Any) -> Reading:
        """Several keys as one observation."""
        parts, keys = _parts(space), self.view.keys
        self.used.add("keys")
        if keys is None or not set(keys) <= set(parts):
            raise EnvError(
                f"env.id {self.game!r} has the observation space {space}; env.view.keys must name some of "
                f"{', '.join(parts)}, but is {'not given' if keys is None else list(keys)}"
            )
        index: Callable[[str], Any] = str if hasattr(space, "keys") else int
        readings = [(index(key), self.one(parts[key])) for key in keys]
        grids = {part.shape[1:] for _, part in readings if len(part.shape) == 3}
        if len(grids) > 1:
            raise EnvError(f"env.view.keys is {list(keys)}; {self.game} gives them in several sizes, {sorted(grids)}")
        if grids:
            (size,) = grids
            readings = [(key, self._as_planes(key, part, size)) for key, part in readings]
        ends = np.cumsum([part.shape[0] for _, part in readings]).tolist()
        slices = [slice(end - part.shape[0], end) for end, (_, part) in zip(ends, readings, strict=True)]

        def write(obs: Any, out: Array) -> None:
            for (key, part), where in zip(readings, slices, strict=True):
                part.write(obs[key], out[where])

        first = readings[0][1]
        return Reading((ends[-1], *first.shape[1:]), first.dtype, write)

    def _as_planes(self, key: Any, part: Reading, size: tuple[int, ...]) -> Reading:
        """Numbers beside pictures or planes: a plane each."""
        if len(part.shape) == 3:
            return part
        if not part.binary:
            raise EnvError(
                f"env.view.keys has {str(key)!r}, whose numbers in {self.game} can be no planes beside the "
                "others; only those of Discrete, MultiDiscrete and MultiBinary can"
            )
        numbers = np.zeros(part.shape, np.uint8)

        def write(obs: Any, out: Array) -> None:
            part.write(obs, numbers)
            out[...] = 255 * numbers[:, None, None]

        return Reading((*part.shape, *size), "uint8", write)

    def one(self, space: Any) -> Reading:
        """One space without keys."""
        from gymnasium import spaces

        if isinstance(space, spaces.Discrete):
            return _one_hot([int(space.n)], [int(space.start)])
        if isinstance(space, spaces.MultiDiscrete):
            return _one_hot(space.nvec.reshape(-1).tolist(), np.asarray(space.start).reshape(-1).tolist())
        if isinstance(space, spaces.MultiBinary):
            return _numbers(space, binary=True)
        if not isinstance(space, spaces.Box):
            raise EnvError(f"env.id {self.game!r} has the observation space {space}; only {READABLE} can be read")
        if len(space.shape) >= 2 and space.dtype == np.bool_:
            return self._planes(space)
        if len(space.shape) == 3 and np.issubdtype(space.dtype, np.integer) and self.view.codes is not None:
            return self._codes(space)
        return self._picture(space) if len(space.shape) >= 2 and space.dtype == np.uint8 else _numbers(space)

    def _picture(self, space: Any) -> Reading:
        shape = space.shape
        if not (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3))):
            raise EnvError(
                f"env.id {self.game!r} has images of shape {shape}; only [H, W], [H, W, 1] and [H, W, 3] can be read, "
                "and grids of codes [H, W, N] with env.view.codes"
            )
        coloured = len(shape) == 3 and shape[-1] == 3
        self.used |= {"crop", *(["colour"] if coloured else [])}
        made = picture(self.view, self.game, shape[0], shape[1])
        if self.view.colour and coloured:
            return made

        def write(obs: Any, out: Array) -> None:
            import cv2

            made.write(cv2.cvtColor(obs, cv2.COLOR_RGB2GRAY) if coloured else obs.reshape(shape[:2]), out)

        return made._replace(write=write)

    def _planes(self, space: Any) -> Reading:
        """Planes [H, W] or [H, W, N] of yes and no, such as MinAtar's."""
        if len(space.shape) > 3:
            raise EnvError(
                f"env.id {self.game!r} has planes of shape {space.shape}; only [H, W] and [H, W, N] can be read"
            )
        height, width, *channels = space.shape

        def write(obs: Any, out: Array) -> None:
            out[...] = np.asarray(obs, np.uint8).reshape(height, width, -1).transpose(2, 0, 1) * np.uint8(255)

        return Reading((*(channels or [1]), height, width), "uint8", write)

    def _codes(self, space: Any) -> Reading:
        """Grids [H, W, N] of codes."""
        counts, (height, width, channels) = self.view.codes or (), space.shape
        self.used |= {"codes", "one_hot"}
        if len(counts) != channels:
            raise EnvError(
                f"env.view.codes is {list(counts)}; {self.game} has grids of shape {space.shape}, so that it must have "
                f"{channels} numbers"
            )
        most = np.array(counts)[:, None, None]

        def checked(obs: Any) -> Array:
            """The grid [H, W, N] as [N, H, W], where every code is one that there is."""
            grid = np.asarray(obs).transpose(2, 0, 1)
            if (grid >= most).any() or (grid < 0).any():
                channel = int(np.argwhere((grid >= most) | (grid < 0))[0][0])
                raise EnvError(
                    f"{self.game} gave the code {grid[channel].max()} in channel {channel}; env.view.codes is "
                    f"{list(counts)}, so that {counts[channel] - 1} is its highest"
                )
            return grid

        every = [np.arange(count)[:, None, None] for count in counts]

        def write_one_hot(obs: Any, out: Array) -> None:
            start = 0
            for plane, codes in zip(checked(obs), every, strict=True):
                np.multiply(plane == codes, 255, out=out[start : start + len(codes)], casting="unsafe")
                start += len(codes)

        def write_scaled(obs: Any, out: Array) -> None:
            out[...] = np.rint(checked(obs) * (255.0 / (most - 1)))

        if self.view.one_hot:
            return Reading((sum(counts), height, width), "uint8", write_one_hot)
        return Reading((channels, height, width), "uint8", write_scaled)


def _numbers(space: Any, binary: bool = False) -> Reading:
    def write(obs: Any, out: Array) -> None:
        out[...] = np.asarray(obs, np.float32).reshape(-1)

    return Reading((int(np.prod(space.shape)),), "float32", write, binary)


def _one_hot(counts: list[int], starts: list[int]) -> Reading:
    offsets = np.cumsum([0, *counts[:-1]]) - np.array(starts)

    def write(obs: Any, out: Array) -> None:
        out[...] = 0
        out[offsets + np.asarray(obs).reshape(-1)] = 1

    return Reading((sum(counts),), "float32", write, True)
