"""Experiments on a Slurm of one node: what is started, told to end, requeued, lost and found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import experiments
import pytest
import slurm
from command_line import REPOSITORY
from experiments import FAKE, faulty, run_log, write

from cdrl_pl.executors import slurm as executor
from cdrl_pl.executors.slurm import RECORD
from cdrl_pl.experiment.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(120)]
start, running_slurm, cluster = experiments.start, slurm.running_slurm, slurm.cluster
ONE = Path("out/one/seed-1")
SLURM = {"executor": "slurm", "seeds": [1], "slurm": {"cpus": 1}}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "BETWEEN", 0.2)
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", paths)


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def no_driver_is_left() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def driver() -> subprocess.Popen[bytes]:
    program = f"""
        from cdrl_pl.cli.experiment import main
        from cdrl_pl.executors import slurm
        slurm.BETWEEN = 0.2
        raise SystemExit(main(["experiment.yaml"], {FAKE!r}))
    """
    STARTED.append(subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)]))
    return STARTED[-1]


def number(folder: Path = ONE) -> str:
    until = time.monotonic() + 30
    while not (folder / RECORD).exists() and time.monotonic() < until:
        time.sleep(0.05)
    return str(json.loads((folder / RECORD).read_text())["number"])


def begun() -> subprocess.Popen[bytes]:
    """A driver whose first run has come to T = 20, and waits there."""
    os.mkfifo("fifo")
    write(**SLURM, **faulty("wait"))
    process = driver()
    with open("fifo") as file:
        assert file.readline() == "there\n"
    return process


def test_an_experiment_is_run_by_slurm(start: experiments.Start, cluster: slurm.Cluster) -> None:
    assert start("--jobs=2", **SLURM) == 0
    assert sorted(run_log()) == [f"{what} {arm}/seed-1" for what in ("fit", "test") for arm in ("one", "two")]
    assert executor.job_state(number()) == ("COMPLETED", 0)


def test_what_a_job_says_when_it_fails_is_its_reason(
    start: experiments.Start, cluster: slurm.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(**SLURM, arms={"one": faulty("refuse")}) == 1
    assert "failed: one/seed-1: training: exit code 2: error: this cannot be" in capfd.readouterr().err


def test_a_job_that_slurm_refuses_is_named(
    start: experiments.Start, cluster: slurm.Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(**{**SLURM, "slurm": {"partition": "nowhere"}}) == 1
    assert "sbatch refused one/seed-1: error: " in capfd.readouterr().err and run_log() == []


def test_a_driver_that_is_told_to_end_ends_its_jobs_which_save_and_go_on(
    start: experiments.Start, cluster: slurm.Cluster
) -> None:
    process = begun()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert executor.job_state(number())[0] == "FAILED" and RunFolder(ONE).newest_checkpoint() is not None
    run_log()
    assert start(**SLURM, **faulty("wait")) == 0
    assert run_log()[:2] == ["fit one/seed-1 from 20.ckpt", "test one/seed-1"]


def test_a_killed_drivers_job_goes_on_and_the_next_driver_takes_it_over(
    start: experiments.Start, cluster: slurm.Cluster
) -> None:
    process = begun()
    process.kill()
    process.wait()
    first = number()
    assert executor.job_state(first)[0] == "RUNNING"
    second = driver()
    time.sleep(3)
    assert number() == first and executor.job_state(first)[0] == "RUNNING"  # and none beside it
    executor.call("scancel", "--batch", "--signal=TERM", first)
    assert second.wait(60) == 0
    assert run_log()[:3] == ["fit one/seed-1", "fit one/seed-1 from 20.ckpt", "test one/seed-1"]


def test_a_job_whose_node_is_lost_is_requeued_and_goes_on_from_its_newest_checkpoint(
    start: experiments.Start, cluster: slurm.Cluster
) -> None:
    """Nobody told it to save, so that it goes on from T = 10."""
    process = begun()
    before = number()
    slurm.lose_node(cluster)
    until = time.monotonic() + 30
    while executor.job_state(before)[0] != "PENDING" and time.monotonic() < until:
        time.sleep(0.2)
    slurm.bring_up_node(cluster)
    executor.call("scontrol", "update", f"JobId={before}", "StartTime=now")  # Slurm would wait two minutes
    assert process.wait(100) == 0
    log = run_log()
    assert log[:2] == ["fit one/seed-1", "fit one/seed-1 from 10.ckpt"]


def test_a_job_that_was_ended_from_outside_or_by_its_time_limit_is_started_again(
    start: experiments.Start, cluster: slurm.Cluster
) -> None:
    process = begun()
    first = number()
    executor.call("scancel", "--batch", "--signal=TERM", first)  # what --signal does before the limit
    assert process.wait(60) == 0
    assert run_log()[:3] == ["fit one/seed-1", "fit one/seed-1 from 20.ckpt", "test one/seed-1"]


def test_a_job_that_is_waiting_is_cancelled(start: experiments.Start, cluster: slurm.Cluster) -> None:
    write(**SLURM)
    executor.call("scontrol", "update", "PartitionName=all", "State=DOWN")
    try:
        process = driver()
        waiting = number()
        assert executor.job_state(waiting)[0] == "PENDING"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert executor.job_state(waiting)[0] == "CANCELLED" and run_log() == []
    finally:
        executor.call("scontrol", "update", "PartitionName=all", "State=UP")
