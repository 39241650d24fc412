"""The command ``import``, run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import REPOSITORY

from cdrl_pl.cli import importing as command

DATA = REPOSITORY / "tests" / "data" / "sb3"
Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Import:
    """Runs the command below a temporary folder; returns its exit code, and what it said on each output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "evaluation_processes", lambda episodes: 1)

    def go(*arguments: Any) -> tuple[int, str, str]:
        try:
            code = command.main([str(word) for word in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return go
