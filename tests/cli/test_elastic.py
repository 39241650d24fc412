"""Which run torchrun's next start of a command goes on from, and which it leaves alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdrl_pl.cli import elastic
from cdrl_pl.cli.elastic import MARK, left_unfinished, mark, unmark

Start = Callable[..., int | None]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """One start of a command below ``tmp_path``: where it goes on from, by T; then it marks itself and saves at T."""
    count = iter(range(100))

    def go(saves: int = 0, run_id: str = "job", restarts: int = 0, command: tuple[str, ...] = ("fit",)) -> int | None:
        monkeypatch.setenv(elastic.RUN_ID, run_id)
        monkeypatch.setenv(elastic.RESTARTS, str(restarts))
        monkeypatch.setattr(sys, "argv", ["cdrl", *command])
        found = left_unfinished(tmp_path)
        folder = tmp_path / f"version_{next(count)}"
        (folder / "checkpoints").mkdir(parents=True)
        mark(folder)
        if saves:
            torch.save({}, folder / "checkpoints" / f"env_steps={saves}.ckpt")
        return found.env_steps if found else None

    return go


def test_a_run_that_died_goes_on_however_often_it_dies(start: Start, tmp_path: Path) -> None:
    assert start(saves=40) is None
    assert start() == 40  # and dies before it saves
    assert start(saves=80) == 40
    assert start() == 80
    unmark(tmp_path)
    assert not list(tmp_path.rglob(MARK)) and start() is None


@pytest.mark.parametrize("other", [{"run_id": "another"}, {"command": ("fit", "--seed", "2")}])
def test_another_launch_or_command_begins_anew_and_leaves_it_alone(start: Start, other: dict[str, object]) -> None:
    start(saves=40)
    assert start(**other) is None
    assert start() == 40


def test_a_launch_without_a_name_goes_on_only_where_torchrun_counts_a_restart(start: Start) -> None:
    assert start(saves=40, run_id="none") is None
    assert start(saves=20, run_id="none", restarts=1) == 40
    assert start(saves=10, run_id="none") is None  # a launch of its own, by hand
    assert start(run_id="none", restarts=1) == 10


def test_without_torchrun_nothing_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(elastic.RUN_ID, raising=False)
    mark(tmp_path)
    unmark(tmp_path)
    assert left_unfinished(tmp_path) is None and not list(tmp_path.iterdir())
