"""One line per run: live on a terminal, otherwise printed as runs start and end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cdrl_pl import metric_names
from cdrl_pl.experiment.plan import Experiment
from cdrl_pl.experiment.run import Run
from cdrl_pl.system.console import said_above

LINE_SECONDS = 60.0  # between two lines about a run where there is no terminal
STYLES = {"waiting": "dim", "training": "bold", "evaluating": "bold", "done": "green", "failed": "red"}


class Display:
    """What is under way, on the standard error."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment, self._console, self._stack = experiment, Console(stderr=True), ExitStack()
        self._live: Live | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._stack.enter_context(self._live)
            self._stack.enter_context(said_above(self._console))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()
        self._live = None

    def say(self, text: str) -> None:
        """One printed line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def started(self, run: Run) -> None:
        """A run's first process has been started."""
        if self._live is None and run.active:
            again = f", resumed from T = {run.resumed_from:,}" if run.resumed_from else ""
            self.say(f"{run.name}: {run.state}{again}")

    def ended(self, run: Run) -> None:
        """A run is done or has failed; failures are printed in any case."""
        if self._live is None or run.state == "failed":
            self.say(f"{run.name}: {run.state}{' (' + run.reason + ')' if run.reason else ''}{score(run)}")

    def update(self, runs: Sequence[Run]) -> None:
        """Draws every run's line anew; where there is no terminal, says now and then how far the active ones are."""
        if self._live is not None:
            self._live.update(table(runs), refresh=True)
        elif time.monotonic() - self._printed >= LINE_SECONDS:
            self._printed = time.monotonic()
            for run in runs:
                if run.active and (words := [word for word in _progress(run) if word]):
                    self.say(f"{run.name}: {run.state}, {', '.join(words)}")


def table(runs: Sequence[Run]) -> Table:
    """A line per run."""
    lines = Table(box=None, pad_edge=False)
    for column in ("run", "state", "T", "return", "time left"):
        lines.add_column(column, justify="left" if column in ("run", "state") else "right")
    for run in runs:
        lines.add_row(run.name, run.state, *_progress(run), style=STYLES[run.state])
    return lines


def _progress(run: Run) -> tuple[str, str, str]:
    if run.state == "done":
        return f"{run.experiment.T_max:,}", score(run).removeprefix(", "), ""
    if run.state == "evaluating" and run.active:
        return "", run.said()[:80], ""
    latest = run.folder.latest() if run.active else {}
    if run.state != "training" or not latest:
        return "", "", ""
    env_steps, T_max = int(float(latest[metric_names.ENV_STEPS()])), run.experiment.T_max
    gained, seconds = env_steps - run.resumed_from, time.monotonic() - run.started_at
    left = seconds * (T_max - env_steps) / gained if gained > 0 else None
    ret = latest.get(metric_names.RETURN(run.experiment.agent)) or ""
    return (
        f"{env_steps:,} / {T_max:,}",
        f"{float(ret):.2f} (training)" if ret else "",
        f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}" if left is not None else "",
    )


def score(run: Run) -> str:
    """The final policy's scores, in words; empty before they are there."""
    record = (run.folder.scores() or {"agents": {}})["agents"].get(run.experiment.agent)
    if record is None:
        return ""
    return "".join(f", {policy} {score['mean']:.2f}" for policy, score in record["evaluation"].items())
