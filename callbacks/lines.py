"""Lines of styled strings, and tables of them, for what is drawn often: rich's tables take five times as long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

Spans = list[tuple[str, str]]
"""Pieces of one line, each with its style."""
QUIET = "bright_black"
GAP = 2  # columns between two cells


def length(spans: Spans) -> int:
    """Columns that they take."""
    return sum(cell_len(text) for text, _ in spans)


def fit(spans: Spans, width: int, right: bool = False) -> Spans:
    """Exactly so many columns: filled up with blanks, or cut off with an ellipsis."""
    if (room := width - length(spans)) >= 0:
        blanks = [(" " * room, "")]
        return [*blanks, *spans] if right else [*spans, *blanks]
    kept, left = Spans(), width
    for text, style in spans:
        if cell_len(text) >= left:
            return [*kept, (set_cell_size(text, left - 1) + "…", style)] if left > 0 else kept
        kept.append((text, style))
        left -= cell_len(text)
    return kept


def shortened(path: str, width: int) -> str:
    """The end of a path, where it is long."""
    return path if cell_len(path) <= width else "…" + path[1 - width :]


def apart(left: Spans, right: Spans, width: int) -> Iterator[Spans]:
    """One at each end of a line; where there is no room for both, two lines."""
    if (room := width - length(right)) > length(left):
        yield [*fit(left, room), *right]
    else:
        yield from (left, right)


def flowing(items: Iterable[Spans], width: int) -> Iterator[Spans]:
    """Items side by side, in as many lines as they need; none is broken."""
    line = Spans()
    for item in items:
        if line and length(line) + 3 + length(item) > width:
            yield line
            line = []
        line = [*line, ("   ", ""), *item] if line else item
    if line:
        yield line


@dataclass
class Column:
    """One column of a table.

    Attributes:
        title: where there is room.
        short: otherwise.
        cells: one for each row.
        rank: the highest are left out first where there is no room; 0 stays.
        right: whether its cells end at the same place.
    """

    title: str
    short: str
    cells: Sequence[Spans]
    rank: int = 0
    right: bool = True

    def width(self, title: str) -> int:
        """Columns that it takes under this title."""
        return max([cell_len(title), *map(length, self.cells)])


def table(columns: list[Column], width: int) -> Iterator[Spans]:
    """As many of the columns as there is room for, under their long titles where those fit, too."""

    def taken(short: bool) -> int:
        """Columns of the screen under such titles."""
        return sum(c.width(c.short if short else c.title) for c in columns) + GAP * (len(columns) - 1)

    while (short := taken(False) > width) and taken(True) > width and max(c.rank for c in columns):
        columns.remove(max(columns, key=lambda c: c.rank))
    titles = [(c, c.short if short else c.title) for c in columns]
    for cells in zip(*([[(title, QUIET)], *c.cells] for c, title in titles), strict=True):
        line = Spans()
        for (column, title), cell in zip(titles, cells, strict=True):
            line += [*([(" " * GAP, "")] if line else []), *fit(cell, column.width(title), column.right)]
        yield line


def section(title: str, width: int, units: str = "") -> Spans:
    """A title with a rule after it, and the units of what is below it."""
    line: Spans = [(title, "bold"), (f"  {units}" * (width >= 56 and bool(units)), QUIET), (" ", "")]
    return [*line, ("─" * (width - length(line)), QUIET)]
