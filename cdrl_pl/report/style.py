"""How figures look: themes, an arm's colour, marker and dash, and the parts that all of them share."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cdrl_pl.report.runs import Comparison

# Each differs from white and from the dark background by a contrast of 3 or more. The baseline is grey.
COLOURS = ("#0072B2", "#D55E00", "#00916A", "#C5659B", "#9A7B00", "#8C6BB1", "#2590A8", "#B5523B")
MARKERS = "sD^vP*Xh"
DASHES: tuple[Any, ...] = (
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (9, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
)
BASELINE = "#808080"
WIDE, NARROW = 8.2, 4.3  # inches: of a page, and of a telephone


@dataclass(frozen=True)
class Theme:
    """Colours of what is not data.

    Attributes:
        text: colour of the text.
        grid: colour of the grid.
        background: colour behind everything.
    """

    text: str
    grid: str
    background: str


LIGHT, DARK = Theme("#1f2328", "#d8dee4", "#ffffff"), Theme("#e6edf3", "#3d444d", "#12161c")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LIGHT.text,
    "axes.labelcolor": LIGHT.text,
    "axes.titlecolor": LIGHT.text,
    "axes.facecolor": LIGHT.background,
    "figure.facecolor": LIGHT.background,
    "text.color": LIGHT.text,
    "xtick.color": LIGHT.text,
    "ytick.color": LIGHT.text,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT.grid,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 3.4,
    "svg.fonttype": "path",
    "svg.hashsalt": "report",
    "figure.constrained_layout.use": True,
}


def dark(svg: bytes) -> bytes:
    """A figure that was drawn in ``LIGHT``, in ``DARK``."""
    for light, other in zip(vars(LIGHT).values(), vars(DARK).values(), strict=True):
        svg = svg.replace(light.encode(), other.encode())
    return svg


def smaller(svg: bytes) -> bytes:
    """The same figure with places to a tenth of a point, which no eye sees."""

    def rounded(places: re.Match[bytes]) -> bytes:
        return re.sub(rb"(\.\d)\d+", rb"\1", places[0])

    return re.sub(rb' (?:d|x|y)="[^"]*"', rounded, svg)


class Look(NamedTuple):
    """What tells a line from the others.

    Attributes:
        colour: of line, marker and band.
        marker: matplotlib's name.
        dash: matplotlib's line style.
    """

    colour: str
    marker: str
    dash: Any


def _others() -> Iterator[Look]:
    for i in count():
        yield Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])


def looks(comparison: Comparison) -> dict[str, Look]:
    """A look per arm, of which no two have two parts in common (up to eight arms beside the baseline)."""
    others = dict(zip((arm.name for arm in comparison.others), _others(), strict=False))
    return {comparison.baseline: Look(BASELINE, "o", "-"), **others}


def short(value: float, _: object = None) -> str:
    """1,500,000 as 1.5 M, for axes."""
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{name}"
    return f"{value:.6g}"


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most so many characters; mathematical signs in it stay themselves."""
    return "\n".join(textwrap.wrap(" ".join(text.split()), width)).replace("$", r"\$")


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **share: Any) -> tuple[Figure, Any]:
    """A figure in inches and its axes [rows, columns]."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def decisions(axis: Axes, T_max: int) -> None:
    """The horizontal axis of decisions, up to the budget."""
    axis.set_xlim(0, T_max)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(short))


def row_names(axis: Axes, names: Sequence[str], inside: bool) -> None:
    """A name for each row, first to last from the top: beside the axes, or above the row where that is too narrow."""
    axis.set_yticks(range(len(names)), [""] * len(names) if inside else [wrapped(name, 28) for name in names])
    axis.set_ylim(len(names) - 0.45, -0.8 if inside else -0.6)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    for row, name in enumerate(names if inside else ()):
        axis.annotate(
            wrapped(name, 50), (0, row - 0.34), xycoords=("axes fraction", "data"), fontsize=8.5, va="bottom",
            fontweight="bold",
        )  # fmt: skip
