"""What is said to Slurm and understood of its answers, with scripts in place of its commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import experiments
import pytest

from cdrl_pl.executors import slurm
from cdrl_pl.executors.again import command_again
from cdrl_pl.executors.executor import RETRIES, ExecutorError, Job, Retries
from cdrl_pl.executors.slurm import SlurmExecutor, SlurmOptions, SlurmProcess, read_options

start, refused = experiments.start, experiments.refused


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a script in place of one of Slurm's commands; ``said`` gets what it was given."""
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "BETWEEN", 0.0)
    monkeypatch.setattr(slurm, "PAUSES", (0.01,))

    def put(name: str, text: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/said\n{text}\n')
        path.chmod(0o755)

    for name in ("sbatch", "scontrol", "scancel", "sacct"):
        put(name, "exit 1")
    return put


def said() -> list[str]:
    return Path("said").read_text().splitlines()


def job(folder: Path) -> Job:
    return Job("one/seed-1", ("python", "-m", "cdrl_pl", "fit", "--a=b c"), folder, folder / "log.txt")


Stub = Callable[[str, str], None]


def test_a_job_asks_for_what_the_file_says(stub: Stub, tmp_path: Path) -> None:
    stub("sbatch", "cat > script; echo '7;cluster'")
    options = read_options({"partition": "gpu", "time": 90, "cpus": 4, "mem": "8G", "extra": ["--account=lab"]})
    assert SlurmExecutor(options).start(job(tmp_path)).number == "7"
    words = said()[0].split()
    assert words[-5:] == ["--partition=gpu", "--time=90", "--cpus-per-task=4", "--mem=8G", "--account=lab"]
    assert {"--parsable", "--requeue", "--signal=B:TERM@60", "--open-mode=append"} < set(words)
    assert Path("script").read_text().splitlines()[-1].endswith("-- python -m cdrl_pl fit '--a=b c'")


def test_a_refused_job_is_named_in_slurms_words(stub: Stub, tmp_path: Path) -> None:
    stub("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
    with pytest.raises(ExecutorError, match="sbatch refused one/seed-1: error: invalid partition"):
        SlurmExecutor(SlurmOptions()).start(job(tmp_path))
    assert len(said()) == 1


def test_a_controller_that_is_not_reached_is_tried_again(stub: Stub, tmp_path: Path) -> None:
    stub("sbatch", "[ -e tried ] && echo 8 && exit; touch tried; echo 'Unable to contact slurm controller' >&2; exit 1")
    assert SlurmExecutor(SlurmOptions()).start(job(tmp_path)).number == "8" and len(said()) == 2


@pytest.mark.parametrize(
    ("state", "code", "lost"),
    [
        ("JobState=RUNNING ExitCode=0:0", None, False),
        ("JobState=PENDING Restarts=1 ExitCode=0:0", None, False),
        ("JobState=COMPLETED ExitCode=0:0", 0, False),
        ("JobState=FAILED ExitCode=2:0", 2, False),
        ("JobState=FAILED ExitCode=0:9", -9, False),
        ("JobState=CANCELLED ExitCode=0:15", -15, False),
        ("JobState=FAILED ExitCode=143:0", 143, True),  # it was not told to by its driver
        (
            "JobState=FAILED Reason=JobLaunchFailure ExitCode=0:15",
            -15,
            True,
        ),  # as seen once
        ("JobState=TIMEOUT ExitCode=0:15", -15, True),
        ("JobState=NODE_FAIL ExitCode=0:0", -9, True),
        ("JobState=PREEMPTED ExitCode=0:0", -9, True),
    ],
)
def test_what_became_of_a_job(stub: Stub, state: str, code: int | None, lost: bool) -> None:
    stub("scontrol", f"echo 'JobId=7 JobName=x {state} End=1'")
    process = SlurmProcess("7")
    assert process.ask() == code and bool(process.lost) == lost


def test_a_job_that_the_controller_has_forgotten_is_asked_for_elsewhere(stub: Stub) -> None:
    stub("sacct", "echo 'CANCELLED by 0|0:15'")
    assert SlurmProcess("7").ask() == -15
    assert [line.split()[0] for line in said()] == ["scontrol", "sacct"]


def test_a_job_of_which_nothing_is_heard_is_under_way_for_a_while_and_then_lost(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = SlurmProcess("7")
    assert process.ask() is None
    monkeypatch.setattr(slurm, "UNKNOWN", 0.0)
    assert process.ask() == -9 and "nothing was heard of Slurm's job 7" in process.lost


def test_without_slurm_it_is_refused(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert "executor is 'slurm'; it needs sbatch, which is not on this machine's PATH" in refused(executor="slurm")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"partitoin": "x"}, "there is no option slurm.partitoin; did you mean partition?"),
        ({"time": "soon"}, "slurm.time is 'soon'; it must be minutes, or H:MM:SS in quotes"),
        ({"time": 1}, "slurm.time is '1', 60 s; it must be more than slurm.notice, 60 s before it"),
        ({"time": "0:30", "notice": 30}, "slurm.time is '0:30', 30 s; it must be more than slurm.notice, 30 s"),
        ({"cpus": 0}, "slurm.cpus is 0; it must be a whole number from 1"),
        ({"mem": "much"}, "slurm.mem is 'much'; it must be a number of MB, or as 8G"),
        ({"extra": ["account"]}, "slurm.extra is ['account']; it must be a list of options of sbatch"),
    ],
)
def test_a_wrong_option_is_named_before_anything_runs(
    options: dict[str, Any], says: str, refused: Callable[..., str]
) -> None:
    assert says in refused(slurm=options)


def test_a_lost_run_is_started_again_while_it_gets_on() -> None:
    retries = Retries()
    assert [retries.again(0) for _ in range(RETRIES + 1)] == [True] * RETRIES + [False]
    retries = Retries()
    assert all(retries.again(env_steps) for env_steps in range(1, 20))


def test_a_training_begins_again_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    import zipfile

    folder = tmp_path / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    command = ["python", "fit", "--ckpt_path=old", "--seed=1"]
    assert command_again(tmp_path, command) == ["python", "fit", "--seed=1"]
    for steps in (10, 20):
        with zipfile.ZipFile(folder / f"env_steps={steps}.ckpt", "w") as archive:
            archive.writestr("data", "x")
    (folder / "env_steps=30.ckpt").write_bytes(b"damaged")
    assert command_again(tmp_path, command)[-1] == f"--ckpt_path={folder / 'env_steps=20.ckpt'}"
    assert command_again(tmp_path, ["python", "test", "--ckpt_path=x"]) == ["python", "test", "--ckpt_path=x"]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2", 120),
        ("2:30", 150),
        ("1:02:03", 3723),
        ("1-0", 86400),
        ("1-2", 93600),
        ("2-3:04", 183840),
        ("1-0:0:1", 86401),
    ],
)
def test_a_time_limit_in_seconds(time: str, expected: int) -> None:
    assert slurm.seconds(time) == expected


def test_a_job_of_no_limit_needs_no_notice() -> None:
    assert read_options({"time": 0}).time == "0"
