"""Runs of the command line: in this process, where that is enough, or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdrl_pl.cli import main as cli
from cdrl_pl.rollouts.pool import Pool

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
MODULE = (sys.executable, "-m", "cdrl_pl")
Run = Callable[..., cli.CLI]


def pole(**learner: Any) -> dict[str, Any]:
    """A small agent on CartPole."""
    network = {"trunk": "mlp", "depth": 1, "hidden": 8, "lstm": 4}
    return {"env": {"id": "CartPole-v1", "max_episode_steps": 12}, "network": network, "learner": learner}


def edge(**options: Any) -> dict[str, Any]:
    """A transfer from alpha to beta that crosses T1 and T2 within ``tiny``'s decisions."""
    return {"teacher": "alpha", "student": "beta", "T1": 40, "T2": 80, "stop": "never", **options}


def tiny(*callbacks: dict[str, Any], transfers: Any = (), **agents: dict[str, Any]) -> dict[str, Any]:
    """A run of 120 decisions, 10 in each rollout."""
    config = {
        "seed_everything": 1,
        "model": {"T_max": 120, "log_every": 20, "agents": agents or {"pole": pole()}, "transfers": list(transfers)},
        "data": {"pool": {"workers": 1, "copies": 2, "steps": 5, "deterministic": True, "stall_timeout": 60.0}},
        "trainer": {"accelerator": "cpu", "callbacks": list(callbacks)},
    }
    return deepcopy(config)


def callback(name: str, **options: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": options}


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def environment(**variables: str) -> dict[str, str]:
    """The environment for a process of its own, without what runs in this one left behind."""
    kept = {k: v for k, v in os.environ.items() if k not in (cli.RUN_VERSION, "PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    paths = filter(None, (variables.pop("PYTHONPATH", None), str(REPOSITORY)))  # this checkout, not an installed one
    return {**kept, "OMP_NUM_THREADS": "1", **variables, "PYTHONPATH": os.pathsep.join(paths)}


def call(
    *arguments: str | Path, cwd: Path, timeout: float = 240.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """One command line in a process of its own."""
    command = [*MODULE, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one command line in this process, below a temporary folder; returns it with its model and trainer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(MODULE[2:]))
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")

    def go(*arguments: str | Path) -> cli.CLI:
        monkeypatch.setenv(cli.RUN_VERSION, "")
        return cli.run([str(argument) for argument in arguments])

    return go


@pytest.fixture
def build(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As ``run``, but everything is only built."""
    monkeypatch.setattr(cli.CLI, "_run_subcommand", lambda self, subcommand: None)
    return run


@pytest.fixture
def refused(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Runs a command line that must be refused before a worker starts, and gives the one line that says why."""

    def start(self: Pool) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(Pool, "start", start)

    def go(*arguments: str | Path, command: str = "fit") -> str:
        with pytest.raises(SystemExit) as end:
            run(command, *arguments)
        assert end.value.code == 2
        first, *rest = capsys.readouterr().err.strip().splitlines()
        assert first.startswith("error: ") and len(first.replace(str(tmp_path), "")) < 300
        assert rest == [f"python -m cdrl_pl {command} --help lists every option"]
        return first.removeprefix("error: ")

    return go
