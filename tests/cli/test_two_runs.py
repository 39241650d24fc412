"""Runs one after another in one process: each has a folder of its own, and leaves the process as it was."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import command_line
import pytest
from command_line import call, tiny, write

from cdrl_pl.cli import main as cli

refused = command_line.refused
run = command_line.run


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config, in a process that knows of no run and no seed."""
    monkeypatch.chdir(tmp_path)
    for name in (cli.RUN_VERSION, "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    return str(write(tmp_path / "tiny.yaml", tiny()))


def state() -> dict[str, Any]:
    """What a run could leave behind in this process."""
    loggers = [logging.getLogger(name) for name in ("callbacks", "pytorch_lightning", "lightning_fabric")]
    return {
        "words": list(sys.argv),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "levels": [logger.level for logger in loggers],
        "filters": [list(handler.filters) for logger in loggers for handler in logger.handlers],
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
    }


def test_two_runs_in_one_process_write_into_two_folders(config: str) -> None:
    ended = [cli.run(["fit", "--config", config, f"--T_max={T_max}"]) for T_max in (20, 40)]
    folders = [Path(run.trainer.log_dir or "") for run in ended]
    assert [folder.name for folder in folders] == ["version_0", "version_1"]
    rows = [len((folder / "metrics.csv").read_text().splitlines()) for folder in folders]
    assert rows == [2, 3] and len(list(Path("runs").iterdir())) == 2


def test_a_run_leaves_the_process_as_it_was(config: str) -> None:
    cli.run(["fit", "--config", config, "--T_max=20"])  # what is set up once is set up now
    before = state()
    cli.run(["fit", "--config", config, "--T_max=20", "--seed=7"])
    assert state() == before


def test_a_refusal_leaves_the_process_as_it_was(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = state()
    with pytest.raises(SystemExit):
        cli.run(["fit", "--config", config, "--T_max=0"])
    assert state() == before


def test_the_seed_of_one_run_is_not_the_next_ones(config: str, tmp_path: Path) -> None:
    without = {key: value for key, value in tiny().items() if key != "seed_everything"}
    path = str(write(tmp_path / "without.yaml", without))
    first = cli.run(["fit", "--config", path, "--seed=7", "--T_max=20"])
    second = cli.run(["fit", "--config", path, "--T_max=20"])
    assert [run.config.fit.seed_everything for run in (first, second)] == [7, 0]
    assert [run.datamodule.resolved_seed() for run in (first, second)] == [7, 0]


def test_processes_that_a_run_launches_are_told_its_folder_and_its_words(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def look(self: cli.CLI, subcommand: str) -> None:
        told.append((os.environ[cli.RUN_VERSION], os.environ["PL_GLOBAL_SEED"], sys.argv[1:]))

    monkeypatch.setattr(cli.CLI, "_run_subcommand", look)
    words = ["fit", "--config", config, "--seed=7"]
    for _ in range(2):
        cli.run(words)
    spelled = [*words[:3], "--seed_everything=7"]
    assert told == [("version_0", "7", spelled), ("version_1", "7", spelled)]


def test_a_folder_that_the_environment_names_is_taken(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.RUN_VERSION, "evaluation")
    for _ in range(2):
        assert Path(cli.run(["fit", "--config", config, "--T_max=20"]).trainer.log_dir or "").name == "evaluation"


@pytest.mark.slow
def test_two_ranks_share_one_folder(tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny())
    over = write(tmp_path / "over.yaml", {"model": {"T_max": 40}})
    words = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    answer = call("fit", "--config", config, f"--config={over}", *words, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["version_0"]
