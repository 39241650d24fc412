"""Policies as bars with the names of their actions: beside the picture of a video, and as TensorBoard's figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACK, TEXT, SOFT, LINE = "#12161c", "#e6edf3", "#9aa4af", "#3d444d"
COLOURS = ("#3d9ad6", "#e07a2f", "#2fb58a", "#c978a8")  # of one group after the other
HEAD, MARGIN = 20, 8  # pixels
LEAST, MOST = 11, 18  # pixels: height of a row


class Bars(NamedTuple):
    """One policy.

    Attributes:
        title: whose it is.
        names: of the actions.
        probabilities: [A], from 0 to 1.
        chosen: what is played, by the indices of the actions.
    """

    title: str
    names: Sequence[str]
    probabilities: np.ndarray[Any, Any]
    chosen: Sequence[int] = ()


def draw_bars(groups: Sequence[Bars], width: int, height: int, foot: str = "") -> np.ndarray[Any, Any]:
    """A picture [H, W, 3] uint8 of policies below each other.

    Args:
        groups: the policies.
        width: of the picture, in pixels.
        height: of the picture, in pixels; it is higher where there are too many actions.
        foot: a line of text below all of them.
    """
    rows = sum(len(group.names) for group in groups)
    heads = HEAD * (len(groups) + bool(foot)) + 2 * MARGIN
    row = min(max((height - heads) // max(rows, 1), LEAST), MOST)
    image = Image.new("RGB", (width, max(height, heads + row * rows)), BACK)
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(13), ImageFont.load_default(row - 2)
    start, end, y = MARGIN + int(0.38 * width), width - MARGIN - 34, MARGIN
    for colour, group in zip(_colours(len(groups)), groups, strict=True):
        draw.text((MARGIN, y), group.title, TEXT, large)
        y += HEAD
        for action, (name, share) in enumerate(zip(group.names, group.probabilities.tolist(), strict=True)):
            played = action in group.chosen
            draw.text(
                (start - 6, y + row // 2), f"{'> ' if played else ''}{name}", TEXT if played else SOFT, small, "rm"
            )
            draw.line((start, y + row - 2, end, y + row - 2), LINE)
            draw.rectangle((start, y + 1, start + round((end - start) * share), y + row - 3), colour)
            draw.text((end + 4, y + row // 2), f"{share:.2f}", TEXT if played else SOFT, small, "lm")
            y += row
    if foot:
        draw.text((MARGIN, y + 2), foot, TEXT, large)
    return np.asarray(image)


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
