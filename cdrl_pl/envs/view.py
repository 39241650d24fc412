"""Views: the declared way from what a game shows to the array that one network reads. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cdrl_pl.checks import check_options

Array = np.ndarray[Any, Any]
Write = Callable[[Any, Array], None]

MAX_SIDE = 1024  # pixels; a network on larger images has more weights than a machine has memory


@dataclass(frozen=True)
class View:
    """How an agent sees its game. It goes with the agent: into its certificate, and into every game that it reads.

    Attributes:
        size: Side of the square, or [height, width], that pictures are scaled down to, in pixels; null keeps their own.
        crop: First and last row of a picture's pixels, the last excluded, that are kept before scaling. null is the
            paper's [34, 194] for Atari (whose screens have 210 rows: [0, 210] keeps all of them), and all rows
            elsewhere.
        colour: Keeps red, green and blue of pictures, as three channels, instead of making them grey.
        maximum: Takes each pixel's maximum over the last two frames of a decision, since some games draw their objects
            in every other frame. Atari only.
        stack: Number of last observations that are read together, the oldest first; an episode's first stands for those
            before it.
        keys: Keys of Dict observations that are read, joined in this order: numbers one after another, pictures and
            planes by channels; where both are read, each number becomes a plane. Indices of Tuple observations.
        codes: For grids [H, W, N] of codes (such as MiniGrid's: [11, 6, 3]): how many codes there are in each of the N
            channels. They are neither greyed nor scaled in size.
        one_hot: Makes every code a plane of its own; false makes every channel one plane, from 0 to 1 by its codes.
    """

    size: int | tuple[int, int] | None = 42
    crop: tuple[int, int] | None = None
    colour: bool = False
    maximum: bool = False
    stack: int = 1
    keys: tuple[str, ...] | None = None
    codes: tuple[int, ...] | None = None
    one_hot: bool = True

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        crop, keys, codes = self.crop, self.keys, self.codes
        rows = (
            (
                "size",
                all(side is None or 1 <= side <= MAX_SIDE for side in sides),
                f"1 to {MAX_SIDE}, [height, width], or null",
            ),
            (
                "crop",
                crop is None or 0 <= crop[0] < crop[1],
                "[first, last] with 0 <= first < last, last being excluded",
            ),
            ("stack", 1 <= self.stack <= 100, "from 1 to 100"),
            ("keys", keys is None or (0 < len(keys) == len(set(keys))), "a list of one or more keys, each once"),
            (
                "codes",
                codes is None or (len(codes) > 0 and min(codes) >= 2 and max(codes) <= 256),
                "a list of numbers of codes, each from 2 to 256",
            ),
            ("one_hot", self.one_hot or codes is not None, "true where there are no codes"),
        )
        check_options("env.view.", self, rows)


class Reading(NamedTuple):
    """One observation as a view makes it of what is shown, before any stack.

    Attributes:
        shape: [C, H, W] of a picture or of planes, [N] of numbers.
        dtype: "uint8" or "float32".
        write: writes it into the caller's memory.
        binary: every number is 0 or 1, so that it can be a plane beside pictures.
    """

    shape: tuple[int, ...]
    dtype: str
    write: Write
    binary: bool = False


class Observer:
    """A view at work on one copy of a game.

    Args:
        view: whose stack is kept here.
        reading: of one observation.

    Attributes:
        shape: of what is written: that of the reading, with its first dimension as often as the view stacks.
        dtype: of what is written.
        memory: [K, *reading], what is stacked, the newest last; None where nothing is.
    """

    def __init__(self, view: View, reading: Reading) -> None:
        first, *rest = reading.shape
        self.view, self._write = view, reading.write
        self.shape, self.dtype = (view.stack * first, *rest), reading.dtype
        self.memory = np.zeros((view.stack, *reading.shape), reading.dtype) if view.stack > 1 else None

    def begin(self, shown: Any, out: Array) -> None:
        """An episode's first observation."""
        if self.memory is None:
            self._write(shown, out)
            return
        self._write(shown, self.memory[-1])
        self.memory[:-1] = self.memory[-1]
        out[...] = self.memory.reshape(self.shape)

    def see(self, shown: Any, out: Array) -> None:
        """The next one."""
        if self.memory is None:
            self._write(shown, out)
            return
        self.memory[:-1] = self.memory[1:]
        self._write(shown, self.memory[-1])
        out[...] = self.memory.reshape(self.shape)

    def again(self, out: Array) -> None:
        """What was written last, out of the memory of a stack."""
        assert self.memory is not None
        out[...] = self.memory.reshape(self.shape)
