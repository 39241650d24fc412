"""What tests of sweeps share: one of a fake program, and its refusals."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiments import FAKE

from cdrl_pl.cli import tune
from cdrl_pl.tuning import driver

Start = Callable[..., int]


def content(**changes: Any) -> dict[str, Any]:
    """Three trials of 40 decisions over one factor of the returns."""
    base = {
        "name": "A test", "folder": "out", "config": "tiny.yaml", "metric": "return/pole", "trials": 3, "T_max": 40,
        "pruner": {"kind": "none", "every": 10}, "space": {"--gain": {"float": [0.5, 2.0]}},
    }  # fmt: skip
    return {**base, **changes}


def write(**changes: Any) -> Path:
    path = Path("sweep.yaml")
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs a sweep of the fake program in a temporary folder; gives its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "POLL", 0.01)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "tiny.yaml").touch()

    def go(*options: str, **changes: Any) -> int:
        write(**changes)
        return tune.main(["sweep.yaml", *options], FAKE)

    return go


@pytest.fixture
def refused(start: Start, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a sweep that must be refused before anything runs; gives the line that says why."""

    def go(*options: str, **changes: Any) -> str:
        Path("run_log").unlink(missing_ok=True)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            start(*options, **changes)
        assert end.value.code == 2 and not Path("run_log").exists()
        line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        return line.removeprefix("error: ")

    return go
