"""What tests of experiments share: one of a fake program, its run_log, and its refusals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from cdrl_pl.cli import experiment as command
from cdrl_pl.experiment import driver

FAKE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_program.py")))
Start = Callable[..., int]


def content(**changes: Any) -> dict[str, Any]:
    """Two arms, two seeds, 40 decisions."""
    base = {
        "name": "A test", "folder": "out", "agent": "pole", "baseline": "one", "seeds": [1, 2], "T_max": 40,
        "config": "tiny.yaml", "arms": {"one": None, "two": {"overrides": ["--lr=2"]}},
    }  # fmt: skip
    return {**base, **changes}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs an experiment of the fake program in a temporary folder; gives its exit code."""
    prepare(tmp_path, monkeypatch, driver)

    def go(*options: str, **changes: Any) -> int:
        write(**changes)
        return command.main(["experiment.yaml", *options], FAKE)

    return go


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch, driver: ModuleType) -> None:
    """A folder with a config, for a driver that looks often and takes no signals."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(driver, "POLL", 0.01)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (folder / "tiny.yaml").touch()


def write(**changes: Any) -> Path:
    path = Path("experiment.yaml")
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


def faulty(what: str, run: str = "one/seed-1") -> dict[str, Any]:
    return {"overrides": [f"--fault={what}@{run}"]}


def run_log() -> list[str]:
    path = Path("run_log")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


@pytest.fixture
def refused(start: Start, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs an experiment that must be refused before anything runs; gives the line that says why."""
    return refusing(start, capsys)


def refusing(start: Start, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def go(*options: str, **changes: Any) -> str:
        run_log()
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            start(*options, **changes)
        assert end.value.code == 2 and run_log() == []
        line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        return line.removeprefix("error: ")

    return go
