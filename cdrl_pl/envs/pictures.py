"""Pictures as views read them: cropped, scaled down by the area that each pixel covers, channels first. Torch-free."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from cdrl_pl.envs.config import EnvError
from cdrl_pl.envs.view import Array, Reading, View


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
    if frame.shape == out.shape[1:]:
        out[0] = frame
        return
    by_row, by_column = area_weights(frame.shape[0], out.shape[1]), area_weights(frame.shape[1], out.shape[2])
    blocks = frame.reshape(-1, by_row.shape[1], frame.shape[1]).astype(np.float32)
    grey = (by_row @ blocks).reshape(-1, by_column.shape[1]) @ by_column.T
    out[...] = np.rint(grey, out=grey).reshape(out.shape)


def picture(view: View, game: str, height: int, width: int) -> Reading:
    """How a view reads pictures [H, W], or [H, W, 3] where it keeps colours.

    Args:
        view: what is made of them.
        game: its name, for messages.
        height: rows of a picture, in pixels.
        width: pixels in a row.

    Raises:
        EnvError: rows that are not there, or a size that pictures would have to grow to.
    """
    crop = view.crop
    if crop is not None and crop[1] > height:
        raise EnvError(f"env.view.crop is {crop}; {game} has {height} rows")
    kept = height if crop is None else crop[1] - crop[0]
    wanted = view.size if isinstance(view.size, tuple) else (view.size or kept, view.size or width)
    if wanted[0] > kept or wanted[1] > width:
        raise EnvError(
            f"env.view.size is {view.size}, but {game} shows {kept} x {width} pixels, which are not enlarged; it must "
            "be at most theirs, or null; where they are codes and no colours, name view.codes"
        )

    def write_grey(frame: Any, out: Array) -> None:
        resize(frame, crop, out)

    def write_colour(frame: Any, out: Array) -> None:
        for channel in range(3):
            resize(frame[..., channel], crop, out[channel : channel + 1])

    return Reading((3 if view.colour else 1, *wanted), "uint8", write_colour if view.colour else write_grey)
