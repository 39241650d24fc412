"""Run folders, read: ``version_N/{metrics.csv, config.yaml, action_distributions.jsonl}``, scores and fingerprint."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cdrl_pl import metric_names
from cdrl_pl.experiment.folder import RunFolder
from cdrl_pl.presets import PRESETS
from cdrl_pl.report.run_data import Array, Attempt, Edge, ReportError, RunData
from cdrl_pl.storage.atomic import read_as

METRICS, ACTIONS, CONFIG = "metrics.csv", "action_distributions.jsonl", "config.yaml"


def has_run(folder: RunFolder) -> bool:
    """Returns whether anything was logged in the folder."""
    return any((attempt / METRICS).is_file() for attempt in folder.attempts)


def read_run(folder: RunFolder, agent: str | None = None, seed: int | None = None) -> RunData:
    """A run's log lines, config, scores and fingerprint.

    Args:
        folder: of the run.
        agent: the agent measured; None: the first that was scored.
        seed: where it is known from elsewhere; None: the config's.

    Raises:
        ReportError: there is nothing to read.
    """
    logged = [attempt for attempt in folder.attempts if (attempt / METRICS).is_file()]
    if not logged:
        raise ReportError(f"{folder.path} has no {METRICS}; a run folder, or an experiment's, is needed")
    config_file = logged[-1] / CONFIG
    config = read_as(config_file, "config of a run", read_config) if config_file.exists() else {}
    run = RunData(
        place=str(folder.path),
        seed=_seed(config) if seed is None else seed,
        attempts=[_attempt(path) for path in folder.attempts],
        config=config,
        environments=environments(config),
        transfers=transfers(config),
        scores=(folder.scores() or {"agents": {}})["agents"],
        fingerprint=folder.fingerprint(),
        agent=agent,
    )
    if metric_names.ENV_STEPS() not in run.metrics:
        raise ReportError(f"{folder.path}: {METRICS} has no column env_steps")
    return run


def _attempt(path: Path) -> Attempt:
    number = re.fullmatch(r"version_(\d+)", path.name)
    metrics, actions = path / METRICS, path / ACTIONS
    return Attempt(
        int(number[1]) if number else 0,
        read_as(metrics, "table of metrics", read_csv) if metrics.exists() else {},
        read_as(actions, "file of action distributions", _read_actions) if actions.exists() else [],
    )


def read_config(path: Path) -> dict[str, Any]:
    """The resolved config of a run, as far as a report needs it."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    environments(config), transfers(config)
    return config


def _read_actions(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [json.loads(line) for line in _whole_lines(path)]
    if not all("env_steps" in line for line in lines):
        raise KeyError("env_steps")
    return lines


def read_csv(path: Path) -> dict[str, Array]:
    """A metrics file by column; empty fields are NaN. A last line that is being written is left out."""
    lines = list(csv.reader(_whole_lines(path)))
    if not lines or metric_names.ENV_STEPS() not in lines[0]:
        raise ValueError("it has no column env_steps")
    head, rows = (lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]) if lines else ([], [])
    table = np.array([[float(v) if v else np.nan for v in row] for row in rows]).reshape(len(rows), len(head))
    return dict(zip(head, table.T, strict=True))


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


def _seed(config: dict[str, Any]) -> int | None:
    seed = config.get("seed_everything")
    return seed if type(seed) is int else None  # true stands for a seed that was drawn


def environments(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each agent of a resolved config plays, by agent; certificated teachers play nothing."""
    agents = config.get("model", {}).get("agents") or {}
    return {name: dict(env) for name, agent in agents.items() if (env := (agent or {}).get("env"))}


def transfers(config: dict[str, Any]) -> dict[str, Edge]:
    """Every transfer of a resolved config by its name in the logs."""
    model = config.get("model", {})
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
        if alignment.get("kind", "deep") != "deep" or alignment.get("file"):
            marks["T1"] = None  # F needs no training
        teacher, student = transfer["teacher"], transfer["student"]
        found[f"{teacher}-{student}"] = Edge(teacher, student, marks)
    return found
