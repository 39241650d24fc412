"""What tests of sweeps share: one of a fake program, and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiments import FAKE, Start, prepare, refusing

from cdrl_pl.cli import tune
from cdrl_pl.tuning import driver


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
    prepare(tmp_path, monkeypatch, driver)

    def go(*options: str, **changes: Any) -> int:
        write(**changes)
        return tune.main(["sweep.yaml", *options], FAKE)

    return go


@pytest.fixture
def refused(start: Start, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a sweep that must be refused before anything runs; gives the line that says why."""
    return refusing(start, capsys)
