"""One run as reports see it, wherever it was read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cdrl_pl import metric_names
from cdrl_pl.checks import ConfigError
from cdrl_pl.storage.fingerprint import Fingerprint

Array = np.ndarray[Any, Any]


class ReportError(ConfigError):
    """Runs that cannot be compared or read, with the reason."""


@dataclass(frozen=True)
class Edge:
    """A transfer between two agents.

    Attributes:
        teacher: its agent.
        student: its agent.
        marks: "T1", "T2" and "stop" in decisions, as the run resolved them; None: never.
    """

    teacher: str
    student: str
    marks: dict[str, int | None]


@dataclass(frozen=True)
class Attempt:
    """One start of a run.

    Attributes:
        number: N of its folder ``version_N``.
        log: log lines by column, NaN where empty; no columns where it wrote none.
        actions: lines of ``action_distributions.jsonl``.
    """

    number: int
    log: dict[str, Array]
    actions: list[dict[str, Any]]

    @property
    def lines(self) -> int:
        """Number of log lines."""
        return len(next(iter(self.log.values()), ()))


@dataclass(frozen=True)
class RunData:
    """One run.

    Everything but ``config`` is a plain fact, so that a run stays readable when options are renamed.

    Attributes:
        place: where it was read, for error messages.
        seed: of everything; None where it is not known.
        attempts: every start, first to last.
        config: resolved, as the run wrote it; kept and compared, but no option in it is looked up.
        environments: what each agent plays, by agent.
        transfers: by their names in the logs.
        scores: ``score_record`` of each agent that was scored; empty before that.
        fingerprint: what it was made of; None where no experiment started it.
        agent: the agent measured; None: the first that was scored.
    """

    place: str
    seed: int | None
    attempts: list[Attempt]
    config: dict[str, Any] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)
    transfers: dict[str, Edge] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    fingerprint: Fingerprint | None = None
    agent: str | None = None

    @cached_property
    def metrics(self) -> dict[str, Array]:
        """Log lines by column, NaN where empty, one attempt after the other."""
        return joined([attempt.log for attempt in self.attempts])

    @property
    def actions(self) -> list[dict[str, Any]]:
        """Lines of ``action_distributions.jsonl`` of all attempts."""
        return [line for attempt in self.attempts for line in attempt.actions]

    @property
    def score(self) -> dict[str, Any] | None:
        """``score_record`` of the measured agent; None before it is there."""
        return self.scores.get(self.agent) if self.agent else next(iter(self.scores.values()), None)

    @property
    def env_steps(self) -> int:
        """Decisions so far."""
        steps = self.metrics[metric_names.ENV_STEPS()]
        return int(steps[-1]) if len(steps) else 0

    def curve(self, column: str) -> tuple[Array, Array]:
        """Decisions and values of a column, where it has any."""
        if column not in self.metrics:
            return np.empty(0), np.empty(0)
        y = self.metrics[column]
        kept = np.isfinite(y)
        return self.metrics[metric_names.ENV_STEPS()][kept], y[kept]

    def final(self, policy: str) -> float | None:
        """Mean return of the frozen final policy, "sampled" or "greedy"."""
        return None if self.score is None else float(self.score["evaluation"][policy]["mean"])


@dataclass(frozen=True)
class ArmData:
    """An arm and its runs, by seed.

    Attributes:
        name: of the arm.
        title: for people; empty where there is none.
        runs: by seed.
    """

    name: str
    title: str
    runs: list[RunData]

    @property
    def label(self) -> str:
        """What it is called in figures and tables: its title, in one line, or else its name."""
        return " ".join(self.title.split()) or self.name

    def finals(self, policy: str) -> Array:
        """Final scores of the runs that have been evaluated, [N]."""
        return np.array([value for run in self.runs if (value := run.final(policy)) is not None])


def joined(attempts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """The log of a run: of every attempt, what came before the first line of a later one."""
    names = {name: None for attempt in attempts for name in attempt}
    parts, first = [], np.inf
    for attempt in reversed(attempts):
        steps = attempt.get(metric_names.ENV_STEPS(), np.empty(0))
        kept = steps < first
        parts.append({name: attempt.get(name, np.full(len(steps), np.nan))[kept] for name in names})
        first = min(first, *steps) if len(steps) else first
    return {name: np.concatenate([part[name] for part in reversed(parts)]) for name in names}
