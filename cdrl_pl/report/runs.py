"""Runs as a report reads them: an experiment's folder, or plain run folders; all that is drawn comes from here."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cdrl_pl.envs import EnvConfig, EnvError, is_atari, resolve
from cdrl_pl.experiment.folder import EXPERIMENT, RunFolder
from cdrl_pl.experiment.plan import Experiment, Published, read_recorded
from cdrl_pl.presets import PRESETS
from cdrl_pl.storage.fingerprint import Fingerprint

Array = np.ndarray[Any, Any]


class ReportError(ValueError):
    """Runs that cannot be compared or read, with the reason."""


@dataclass(frozen=True)
class Edge:
    """The ends of a transfer, and when it teaches.

    Attributes:
        teacher: name of the agent that teaches.
        student: name of the agent that is taught.
        marks: T1, T2 and stop as the config has them, in decisions; None: never.
    """

    teacher: str
    student: str
    marks: dict[str, int | None]


@dataclass(frozen=True)
class RunData:
    """One run.

    Attributes:
        folder: where it lies.
        seed: of everything, without unit.
        metrics: log lines by column, NaN where empty, one attempt after the other.
        config: resolved.
        score: ``score_record`` of the measured agent, None before it is there.
    """

    folder: RunFolder
    seed: int
    metrics: dict[str, Array]
    config: dict[str, Any]
    score: dict[str, Any] | None

    def curve(self, column: str) -> tuple[Array, Array]:
        """Decisions and values of a column, where it has any."""
        if column not in self.metrics:
            return np.empty(0), np.empty(0)
        y = self.metrics[column]
        kept = np.isfinite(y)
        return self.metrics["env_steps"][kept], y[kept]

    def final(self, policy: str) -> float | None:
        """Mean return of the frozen final policy, "sampled" or "greedy"."""
        return None if self.score is None else float(self.score["evaluation"][policy]["mean"])

    @property
    def env_steps(self) -> int:
        """Decisions so far."""
        steps = self.metrics["env_steps"]
        return int(steps[-1]) if len(steps) else 0

    @cached_property
    def fingerprint(self) -> Fingerprint | None:
        """What it was made of, where an experiment started it."""
        return self.folder.fingerprint()

    @cached_property
    def distributions(self) -> list[dict[str, Any]]:
        """Lines of ``action_distributions.jsonl`` of all attempts."""
        lines = []
        for attempt in self.folder.attempts:
            path = attempt / "action_distributions.jsonl"
            lines += [json.loads(line) for line in _whole_lines(path)] if path.is_file() else []
        return lines

    @property
    def transfers(self) -> dict[str, Edge]:
        """Every transfer of the config by its name in the logs."""
        model = self.config.get("model", {})
        preset = PRESETS.get(model.get("preset", "paper"), PRESETS["paper"])
        found = {}
        for transfer in model.get("transfers") or []:
            marks = {}
            for mark in ("T1", "T2", "stop"):
                value = model.get(mark)
                value = transfer.get(mark) if value is None else value
                value = getattr(preset, mark) if value is None else value
                marks[mark] = None if value == "never" else value
            alignment = transfer.get("alignment") or {}
            if alignment.get("kind") == "identity" or alignment.get("file"):
                marks["T1"] = None  # F needs no training
            teacher, student = transfer["teacher"], transfer["student"]
            found[f"{teacher}-{student}"] = Edge(teacher, student, marks)
        return found


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

    def finals(self, policy: str) -> Array:
        """Final scores of the runs that have been evaluated, [N]."""
        return np.array([value for run in self.runs if (value := run.final(policy)) is not None])


@dataclass(frozen=True)
class Comparison:
    """Everything that a report is about.

    Attributes:
        name: for people.
        agent: name of the agent that is measured.
        baseline: name of the arm that the others are compared with.
        arms: in the order shown.
        T_max: decisions of every run.
        threshold: mean training return, in points, whose first crossing is timed; None: none.
        floor: return, in points, of a policy that knows nothing.
        paper: published numbers.
        planned: number of seeds per arm; None where not known.
        frame_skip: mean frames per decision; 1 where the game has none.
        env: of the agent, resolved; empty where not known.
    """

    name: str
    agent: str
    baseline: str
    arms: list[ArmData]
    T_max: int
    threshold: float | None = None
    floor: float = 0.0
    paper: tuple[Published, ...] = ()
    planned: int | None = None
    frame_skip: float = 1.0
    env: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> ArmData:
        """The baseline's runs."""
        return next(arm for arm in self.arms if arm.name == self.baseline)

    @property
    def others(self) -> list[ArmData]:
        """The arms that are compared with the baseline."""
        return [arm for arm in self.arms if arm.name != self.baseline]


def read_run(folder: RunFolder, agent: str | None = None) -> RunData:
    """A run's log lines over all its attempts, its config and its score.

    Raises:
        ReportError: there is nothing to read.
    """
    attempts = [attempt for attempt in folder.attempts if (attempt / "metrics.csv").is_file()]
    if not attempts:
        raise ReportError(f"{folder.path} has no metrics.csv; a run folder, or an experiment's, is needed")
    config_file = attempts[-1] / "config.yaml"
    config = yaml.safe_load(config_file.read_text()) if config_file.is_file() else {}
    scores = (folder.scores() or {"agents": {}})["agents"]
    metrics = joined([read_csv(attempt / "metrics.csv") for attempt in attempts])
    if "env_steps" not in metrics:
        raise ReportError(f"{folder.path}: metrics.csv has no column env_steps")
    score = scores.get(agent) if agent else next(iter(scores.values()), None)
    return RunData(folder, int(config.get("seed_everything") or 0), metrics, config, score)


def read_csv(path: Path) -> dict[str, Array]:
    """A metrics file by column; empty fields are NaN. A last line that is being written is left out."""
    lines = list(csv.reader(_whole_lines(path)))
    head, rows = (lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]) if lines else ([], [])
    table = np.array([[float(v) if v else np.nan for v in row] for row in rows]).reshape(len(rows), len(head))
    return dict(zip(head, table.T, strict=True))


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


def joined(attempts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """The log of a run: of every attempt, what came before the first line of a later one."""
    names = {name: None for attempt in attempts for name in attempt}
    parts, first = [], np.inf
    for attempt in reversed(attempts):
        steps = attempt.get("env_steps", np.empty(0))
        kept = steps < first
        parts.append({name: attempt.get(name, np.full(len(steps), np.nan))[kept] for name in names})
        first = min(first, *steps) if len(steps) else first
    return {name: np.concatenate([part[name] for part in reversed(parts)]) for name in names}


def read_folder(folder: Path) -> Comparison:
    """An experiment's runs so far.

    Raises:
        ReportError: it is no experiment's folder, has no runs yet, or an arm mixes runs of different fingerprints.
    """
    plan = read_recorded(folder / EXPERIMENT)
    arms = []
    for arm in plan.arms:
        runs = []
        for seed in plan.seeds:
            run = RunFolder(folder / arm.name / f"seed-{seed}")
            if any((attempt / "metrics.csv").is_file() for attempt in run.attempts):
                runs.append(read_run(run, plan.agent))
        _refuse_mixture(arm.name, runs)
        arms.append(ArmData(arm.name, arm.title, runs))
    if not any(arm.runs for arm in arms):
        raise ReportError(f"{folder} has no runs yet")
    return _comparison(plan, [arm for arm in arms if arm.runs])


def _comparison(plan: Experiment, arms: list[ArmData]) -> Comparison:
    if plan.baseline not in [arm.name for arm in arms]:
        raise ReportError(f"the baseline {plan.baseline!r} has no runs yet")
    env = task(arms[0].runs[0], plan.agent)
    return Comparison(
        plan.name, plan.agent, plan.baseline, arms, plan.T_max, plan.threshold, plan.floor, plan.paper, len(plan.seeds),
        mean_skip(env), env,
    )  # fmt: skip


def read_plain(
    labelled: Sequence[tuple[str, Path]], agent: str | None, baseline: str | None, threshold: float | None, floor: float
) -> Comparison:
    """Runs that no experiment started: those of one label form an arm.

    Args:
        labelled: label and run folder of every run.
        agent: the agent measured; None: the first that learned.
        baseline: the arm compared with; None: the first.
        threshold: mean training return, in points, whose first crossing is timed; None: none.
        floor: return, in points, of a policy that knows nothing.

    Raises:
        ReportError: the agent or the baseline is none of those there; runs of different tasks.
    """
    folders: dict[str, list[Path]] = {}
    for label, path in labelled:
        folders.setdefault(label, []).append(path)
    arms = [ArmData(label, "", [read_run(RunFolder(p), agent) for p in paths]) for label, paths in folders.items()]
    first = arms[0].runs[0]
    agents = [name.removeprefix("return/") for name in first.metrics if name.startswith("return/")]
    chosen = agent or next(iter(agents), None)
    if chosen not in agents:
        raise ReportError(
            f"--agent is {agent!r}; {first.folder.path} logged the returns of {', '.join(agents) or 'none'}"
        )
    base = baseline or arms[0].name
    if base not in folders:
        raise ReportError(f"--baseline is {base!r}; it must be one of {', '.join(folders)}")
    for arm in arms:
        _refuse_mixture(arm.name, arm.runs)
        for run in arm.runs:
            _refuse_another_task(run, first, chosen)
    env = task(first, chosen)
    longest = max(run.env_steps for arm in arms for run in arm.runs)
    name = ", ".join(folders)
    return Comparison(name, chosen, base, arms, longest, threshold, floor, frame_skip=mean_skip(env), env=env)


def _refuse_mixture(arm: str, runs: Sequence[RunData]) -> None:
    signed = [run for run in runs if run.fingerprint is not None]
    for run in signed[1:]:
        assert run.fingerprint is not None and signed[0].fingerprint is not None
        if why := run.fingerprint.differences(signed[0].fingerprint):
            raise ReportError(
                f"arm {arm}: {run.folder.path} and {signed[0].folder.path} differ in {', '.join(why)}; "
                "results of different code, configs or versions are not put in one arm"
            )


def _refuse_another_task(run: RunData, first: RunData, agent: str) -> None:
    agents = sorted({name.partition("/")[2] for name in run.metrics if name.startswith(("episodes/", "return/"))})
    if agent not in agents:
        raise ReportError(
            f"{run.folder.path} has no agent {agent!r}, by which {first.folder.path} is measured; it has "
            f"{', '.join(agents) or 'none'}"
        )
    mine, theirs = (task(r, agent).get("id") for r in (run, first))
    if mine and theirs and mine != theirs:
        raise ReportError(
            f"{run.folder.path} plays {mine} and {first.folder.path} plays {theirs}; returns of different tasks are "
            "not compared"
        )


def task(run: RunData, agent: str) -> dict[str, Any]:
    """The environment that the agent was scored in or, before that, trained in, as far as it is known."""
    if run.score is not None:
        return dict(run.score["env"])
    agents = run.config.get("model", {}).get("agents", {})
    return dict((agents.get(agent) or {}).get("env") or {})


def mean_skip(env: dict[str, Any]) -> float:
    """Frames per decision: [2, 4], drawn evenly, means 3. 1 for what is no Atari game, or is not known."""
    if not env or ":" in env.get("id", ""):  # a name with a module would import it
        return 1.0
    try:
        config = resolve(EnvConfig(**env))
    except (EnvError, TypeError):
        return 1.0
    skip = config.frame_skip
    if not is_atari(config) or skip is None:
        return 1.0
    return float(skip) if isinstance(skip, int) else sum(skip) / 2
