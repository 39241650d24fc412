"""How far an evaluation is, and what it found, for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cdrl_pl.evaluation.evaluate import Played
from cdrl_pl.evaluation.score import Score
from cdrl_pl.system.console import logs_above

LINE_SECONDS = 10.0  # between two lines where there is no terminal


def in_words(what: str, episodes: int, now: Played, seconds: float) -> str:
    """One line.

    Args:
        what: is played.
        episodes: of the whole evaluation.
        now: how far it is.
        seconds: since it began.
    """
    parts = [f"{what}: {now.episodes}/{episodes} episodes"]
    if now.mean is not None:
        left = int(seconds * (episodes - now.episodes) / now.episodes)
        parts += [f"mean {now.mean:.2f} so far", f"about {left // 60}:{left % 60:02} left"]
    return ", ".join(parts)


class EvaluationDisplay:
    """A bar on a terminal, elsewhere a line every 10 seconds; on the standard error.

    Args:
        what: is played.
        episodes: of the whole evaluation.
        announce: shows a line in another display that is open; None: this one is on its own.
    """

    def __init__(self, what: str, episodes: int, announce: Callable[[str], None] | None = None) -> None:
        self._what, self._episodes, self._announce = what, episodes, announce
        self._console, self._stack = Console(stderr=True), ExitStack()
        self._bar: Progress | None = None
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> EvaluationDisplay:
        if self._announce is None and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} episodes {task.fields[mean]}"),
                TimeRemainingColumn(),
            )
            before = sys.stderr
            self._bar = Progress(*columns, console=self._console, redirect_stdout=sys.stdout.isatty())
            self._stack.enter_context(self._bar)
            self._stack.enter_context(logs_above(before))
            self._bar.add_task(self._what, total=self._episodes, mean="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None and self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._episodes)
        self._stack.close()
        if self._announce is not None:
            self._announce("")

    def update(self, now: Played) -> None:
        """Shows how far the evaluation is."""
        elapsed = time.monotonic()
        if self._bar is not None:
            mean = "" if now.mean is None else f"mean {now.mean:.2f}"
            self._bar.update(self._bar.task_ids[0], completed=now.episodes, mean=mean)
        elif self._announce is not None:
            self._announce(in_words(self._what, self._episodes, now, elapsed - self._began))
        elif elapsed - self._printed >= LINE_SECONDS:
            line = in_words(self._what, self._episodes, now, elapsed - self._began)
            self._console.print(Text(line), highlight=False, soft_wrap=True)
            self._printed = elapsed


def table(scores: Mapping[str, Mapping[str, Score]]) -> Table:
    """A line for each agent and policy.

    Args:
        scores: agent -> policy -> score.
    """
    lines = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("agent", "policy", "episodes", "mean ± 95 %", "std", "least", "most", "length"):
        lines.add_column(column, justify="left" if column in ("agent", "policy") else "right", no_wrap=True)
    for agent, by_policy in scores.items():
        for policy, score in by_policy.items():
            error = 1.96 * score.std / max(score.episodes - 1, 1) ** 0.5  # of a std with ddof 0
            spread = f" ± {error:.2f}" if score.episodes > 1 else ""
            lines.add_row(
                Text(agent),
                policy,
                str(score.episodes),
                f"{score.mean:.2f}{spread}",
                f"{score.std:.2f}",
                f"{min(score.returns):g}",
                f"{max(score.returns):g}",
                f"{score.mean_length:,.0f}",
            )
    return lines
