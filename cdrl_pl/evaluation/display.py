"""How far an evaluation is, and what it found, for people."""

from __future__ import annotations

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
from cdrl_pl.system.console import said_above

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
    else:
        parts.append(f"{now.decisions:,} decisions so far")
    return ", ".join(parts)


class EvaluationDisplay:
    """A bar on a terminal, elsewhere a line every 10 seconds; on the standard error.

    Args:
        what: is played.
        episodes: of the whole evaluation.
        announce: shows a line in another display that is open; None: this one is on its own.

    Attributes:
        seconds: that it was open, once it is closed.
    """

    def __init__(self, what: str, episodes: int, announce: Callable[[str], None] | None = None) -> None:
        self._what, self._episodes, self._announce = what, episodes, announce
        self._console, self._stack = Console(stderr=True), ExitStack()
        self._bar: Progress | None = None
        self._began = self._printed = time.monotonic()
        self.seconds = 0.0

    def __enter__(self) -> EvaluationDisplay:
        if self._announce is None and self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} episodes {task.fields[so_far]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, redirect_stdout=False, redirect_stderr=False)
            self._stack.enter_context(self._bar)
            self._stack.enter_context(said_above(self._console))
            self._bar.add_task(self._what, total=self._episodes, so_far="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._began
        if kind is None and self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._episodes)
        self._stack.close()
        if self._announce is not None:
            self._announce("")

    def update(self, now: Played) -> None:
        """Shows how far the evaluation is."""
        elapsed = time.monotonic()
        if self._bar is not None:
            so_far = f"{now.decisions:,} decisions" if now.mean is None else f"mean {now.mean:.2f}"
            self._bar.update(self._bar.task_ids[0], completed=now.episodes, so_far=so_far)
        elif self._announce is not None:
            self._announce(in_words(self._what, self._episodes, now, elapsed - self._began))
        elif elapsed - self._printed >= LINE_SECONDS:
            line = in_words(self._what, self._episodes, now, elapsed - self._began)
            self._console.print(Text(line), highlight=False, soft_wrap=True)
            self._printed = elapsed


def table(scores: Mapping[str, Mapping[str, Score]], seconds: Mapping[str, Mapping[str, float]]) -> Table:
    """A line for each agent and policy; plus and minus are 1.96 standard errors.

    Args:
        scores: agent -> policy -> score.
        seconds: that each took: agent -> policy -> seconds.
    """
    lines = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("agent", "policy", "episodes", "mean ± 95 %", "std", "least", "most", "length", "seconds"):
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
                f"{seconds[agent][policy]:,.1f}",
            )
    return lines
