"""Which executor runs what, by the file and by the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import experiments
import pytest

from cdrl_pl.executors.choose import EXECUTORS, make_executor
from cdrl_pl.executors.executor import ExecutorError, Job
from cdrl_pl.executors.local import LocalExecutor
from cdrl_pl.experiment.plan import read_experiment

start, refused, write = experiments.start, experiments.refused, experiments.write


def test_runs_are_on_this_machine_unless_said_otherwise(start: experiments.Start) -> None:
    assert read_experiment(write()).executor == "local" and isinstance(make_executor("local"), LocalExecutor)


def test_an_executor_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ExecutorError, match=f"executor is 'locl'; it must be one of {', '.join(EXECUTORS)}"):
        make_executor("locl")


def test_an_executor_is_checked_in_the_file_and_on_the_command_line(refused: Callable[..., str]) -> None:
    assert "experiment.yaml: executor is 'cloud'; it must be one of" in refused(executor="cloud")
    assert "executor is 'cloud'; it must be one of" in refused("--executor=cloud")


def test_a_process_that_does_not_end_when_told_to_is_killed(tmp_path: Path) -> None:
    words = ("sh", "-c", "trap '' TERM; echo there; while :; do sleep 0.05; done")
    process = LocalExecutor().start(Job("one", words, tmp_path, log := tmp_path / "log.txt"))
    while not log.read_text():
        assert process.ask() is None
    process.end()
    process.wait(0.2)
    assert process.ask() == -9
