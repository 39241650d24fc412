"""However a run ends, no process and no shared memory of it is left (faults 9 to 12)."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from command_line import MODULE, REPOSITORY, call, callback, environment, tiny, write

pytestmark = pytest.mark.slow

UNDER_WAY = '''
import pytorch_lightning as pl


class UnderWay(pl.Callback):
    """Says that batches are learned from; after ``breaks`` of them, raises."""

    def __init__(self, breaks: int = 0) -> None:
        self.breaks, self.batches = breaks, 0

    def on_test_start(self, trainer, module):
        print("under way", flush=True)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.batches += 1
        if self.batches == 2:
            print("under way", flush=True)
        if self.batches == self.breaks:
            raise RuntimeError("broken on purpose")
'''
MARK = "CDRL_PL_TEST_MARK"


@dataclass
class Trained:
    """A run in a process (and process group) of its own."""

    process: subprocess.Popen[str]
    mark: str
    shared: set[str]  # names in /dev/shm before it
    folder: Path

    def members(self) -> list[psutil.Process]:
        """Every process that has this run's mark in its environment, as workers inherit it."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # it ended meanwhile, or has ended and waits for its parent
                pass
        return found

    def wait_until_under_way(self) -> list[psutil.Process]:
        """Its processes once workers play for it: trainer, workers, and what starts them."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 120)
        assert readable, "no batch was learned from in 120 s"
        assert self.process.stdout.readline() == "under way\n"
        members = self.members()
        assert len(members) >= 3  # trainer and two workers
        return members

    def assert_nothing_is_left(self, members: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(members, timeout=20)
        assert [p.cmdline() for p in alive if p.is_running()] == []
        assert self.members() == []
        assert set(os.listdir("/dev/shm")) - self.shared == set()


Start = Callable[..., Trained]


def take_signals(nohup: bool) -> None:
    """In the child: Ctrl-C, which a shell's background jobs ignore, and a closed terminal, but for nohup."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a run that would go on for hours; it is killed after the test, however that ends."""
    started: list[Trained] = []

    def go(T_max: int = 10**9, stall: float = 120.0, lines: int = 0, nohup: bool = False, **options: int) -> Trained:
        """``lines``: log every so many decisions. Its errors go where its output does with them, else to a file."""
        (tmp_path / "under_way.py").write_text(UNDER_WAY)
        config = tiny(callback("callbacks.EnvStepsCheckpoint"), callback("under_way.UnderWay", **options))
        config["model"]["T_max"] = T_max
        config["data"]["pool"] = {"workers": 2, "copies": 2, "steps": 5, "stall_timeout": stall}
        if lines:
            config["model"]["log_every"] = lines
        mark, shared = uuid.uuid4().hex, set(os.listdir("/dev/shm"))
        process = subprocess.Popen(
            [*MODULE, "fit", "--config", str(write(tmp_path / "tiny.yaml", config))],
            cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path), **{MARK: mark}), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT if lines else (tmp_path / "errors").open("w"), text=True,
            preexec_fn=lambda: take_signals(nohup),
        )  # fmt: skip
        started.append(Trained(process, mark, shared, tmp_path))
        return started[0]

    yield go
    for run in started:
        for process in run.members():
            process.kill()
        run.process.communicate(timeout=20)


def test_nothing_is_left_after_a_run(start: Start) -> None:
    run = start(T_max=2000)
    members = run.wait_until_under_way()
    assert run.process.wait(60) == 0
    run.assert_nothing_is_left(members)


def test_nothing_is_left_after_an_error_in_training(start: Start) -> None:
    run = start(breaks=200)
    members = run.wait_until_under_way()
    assert run.process.wait(60) == 1
    assert "RuntimeError: broken on purpose" in (run.folder / "errors").read_text()
    run.assert_nothing_is_left(members)


def test_fault_09_sigterm_saves_a_checkpoint_and_exits_with_143(start: Start) -> None:
    run = start()
    members = run.wait_until_under_way()
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(60) == 143
    run.assert_nothing_is_left(members)
    assert len(list(run.folder.rglob("env_steps=*.ckpt"))) == 1


def test_nothing_is_left_after_ctrl_c(start: Start) -> None:
    run = start()
    members = run.wait_until_under_way()
    os.killpg(run.process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    assert run.process.wait(60) == 130
    run.assert_nothing_is_left(members)
    assert len(list(run.folder.rglob("env_steps=*.ckpt"))) == 1


def test_a_run_under_nohup_outlives_its_terminal_its_output_and_a_stop_longer_than_its_patience(start: Start) -> None:
    run = start(T_max=4_000, stall=2.0, lines=100, nohup=True)
    assert run.process.stdout is not None
    while "T 100/" not in (line := run.process.stdout.readline()):
        assert line, "it ended"
    members = run.members()
    os.killpg(run.process.pid, signal.SIGHUP)
    run.process.stdout.close()  # from now on there is nobody to read what it says
    os.killpg(run.process.pid, signal.SIGSTOP)
    time.sleep(4.0)
    os.killpg(run.process.pid, signal.SIGCONT)
    assert run.process.wait(60) == 0
    run.assert_nothing_is_left(members)
    log = next(run.folder.rglob("metrics.csv")).read_text()
    assert "4000" in log.splitlines()[-1]


def test_fault_11_nothing_is_left_after_sigkill_of_the_trainer(start: Start) -> None:
    run = start()
    members = run.wait_until_under_way()
    run.process.kill()
    assert run.process.wait(60) == -signal.SIGKILL
    run.assert_nothing_is_left(members)


def test_fault_12_nothing_is_left_after_sigkill_of_the_group(start: Start) -> None:
    run = start()
    members = run.wait_until_under_way()
    os.killpg(run.process.pid, signal.SIGKILL)
    assert run.process.wait(60) == -signal.SIGKILL
    run.assert_nothing_is_left(members)


# One rule for every phase


def told(process: subprocess.Popen[str], group: bool) -> None:
    """As a batch system does it: to the trainer, or to every process at once."""
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("group", [False, True], ids=["trainer", "group"])
def test_fault_09_sigterm_while_learning_is_143_whoever_gets_it(start: Start, group: bool) -> None:
    run = start()
    members = run.wait_until_under_way()
    told(run.process, group)
    assert run.process.wait(60) == 143
    run.assert_nothing_is_left(members)
    assert len(list(run.folder.rglob("env_steps=*.ckpt"))) == 1
    assert "Traceback" not in (run.folder / "errors").read_text()


@pytest.mark.parametrize("group", [False, True], ids=["trainer", "group"])
@pytest.mark.parametrize("deterministic", [False, True], ids=["asynchronous", "deterministic"])
def test_fault_10_sigterm_while_waiting_is_143_and_saves(tmp_path: Path, deterministic: bool, group: bool) -> None:
    """Workers that play on for a long time before they answer: the trainer waits, and has learned."""
    config = tiny(callback("callbacks.EnvStepsCheckpoint"))
    config["model"]["agents"] = {
        "beta": {"env": {"id": "toy_envs:SlowToy-v0"}, "network": {"trunk": "mlp", "depth": 1, "hidden": 8, "lstm": 0}}
    }
    config["model"]["T_max"] = 10**9
    config["data"]["pool"] = {"workers": 2, "copies": 1, "steps": 5, "deterministic": deterministic}
    marker = tmp_path / "waiting"
    paths = environment(PYTHONPATH=str(REPOSITORY / "tests" / "support"), SLOW_MARKER=str(marker))
    command = [*MODULE, "fit", "--config", str(write(tmp_path / "tiny.yaml", config))]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(command, cwd=tmp_path, env=paths, start_new_session=True, stderr=errors, text=True)
        try:
            deadline = time.monotonic() + 60
            while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            time.sleep(1.0)  # what the workers had finished before is learned from
            told(process, group)
            assert process.wait(60) == 143
        finally:
            process.kill()
    said = (tmp_path / "errors").read_text()
    assert len(list(tmp_path.rglob("env_steps=*.ckpt"))) == 1, said
    assert "Traceback" not in said


@pytest.mark.parametrize("group", [False, True], ids=["trainer", "group"])
def test_fault_09_sigterm_while_testing_is_143(tmp_path: Path, group: bool) -> None:
    (tmp_path / "under_way.py").write_text(UNDER_WAY)
    command = [*MODULE, "test", "--teacher", str(REPOSITORY / "teachers" / "pong"), "--episodes", "64"]
    command += ["--trainer.callbacks+=under_way.UnderWay"]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path)), start_new_session=True,
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None and process.stdout.readline() == "under way\n"
            time.sleep(2.0)
            told(process, group)
            assert process.wait(60) == 143
        finally:
            process.kill()
    assert "Traceback" not in (tmp_path / "errors").read_text()


@pytest.mark.parametrize("group", [False, True], ids=["trainer", "group"])
def test_fault_09_sigterm_while_a_teacher_is_evaluated_is_143_and_it_begins_again(tmp_path: Path, group: bool) -> None:
    """The evaluation gets stuck in its 31st step; training has played ten at most."""
    watch = {"agent": "beta", "threshold": -1, "window": 1, "episodes": 2000, "trial": 0}  # many for each copy
    marker, teacher = tmp_path / "stuck", callback("callbacks.CertificatedTeacher", **watch)
    config = tiny(callback("callbacks.EnvStepsCheckpoint"), teacher)
    network = {"trunk": "mlp", "depth": 1, "hidden": 8, "lstm": 0}
    config["model"]["agents"] = {"beta": {"env": {"id": "toy_envs:SlowToy-v0"}, "network": network}}
    config["data"]["pool"] = {"workers": 1, "copies": 1, "steps": 5}
    paths = environment(PYTHONPATH=str(REPOSITORY / "tests" / "support"), SLOW_MARKER=str(marker))
    command = [*MODULE, "fit", "--config", str(write(tmp_path / "tiny.yaml", config)), "--T_max=1000"]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(command, cwd=tmp_path, env=paths, start_new_session=True, stderr=errors, text=True)
        try:
            deadline = time.monotonic() + 120
            while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            told(process, group)
            assert process.wait(60) == 143
        finally:
            process.kill()
    said, (saved,) = (tmp_path / "errors").read_text(), tmp_path.rglob("env_steps=*.ckpt")
    assert "the evaluation of beta was told to end; it begins again on resume" in said and "Traceback" not in said
    assert not list(tmp_path.rglob("certificate.json"))
    state = torch.load(saved, weights_only=False)["callbacks"]
    assert next(v["begun"] for k, v in state.items() if "CertificatedTeacher" in k) is not None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGHUP, 129)], ids=["USR1", "HUP"])
def test_fault_09_what_batch_systems_and_closed_terminals_send_saves(
    start: Start, number: signal.Signals, code: int
) -> None:
    """``--signal=USR1@90``, and a terminal that is closed, send it to every process."""
    run = start()
    members = run.wait_until_under_way()
    os.killpg(run.process.pid, number)
    assert run.process.wait(60) == code
    run.assert_nothing_is_left(members)
    assert len(list(run.folder.rglob("env_steps=*.ckpt"))) == 1


WAITING = """
import time

import pytorch_lightning as pl


class Waiting(pl.Callback):
    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.wait)

    def wait(self, *_, **__):
        print("under way", flush=True)
        time.sleep(60)
"""
TOLD = {signal.SIGTERM: 143, signal.SIGINT: 130}


def takes_signals(process: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    caught = next(
        line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("SigCgt")
    )
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", TOLD, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", ["imports", "setup", "on_fit_start"])
def test_fault_09_who_is_told_to_end_while_it_starts_ends_at_once(
    tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    """While torch is imported; before Lightning takes signals; and after, before learning begins."""
    (tmp_path / "waiting.py").write_text(WAITING)
    callbacks = [] if phase == "imports" else [callback("waiting.Waiting", hook=phase)]
    command = [*MODULE, "fit", "--config", str(write(tmp_path / "tiny.yaml", tiny(*callbacks)))]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(PYTHONPATH=str(tmp_path)), start_new_session=True,
        stdout=subprocess.PIPE, stderr=(tmp_path / "errors").open("w"), text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if phase == "imports":
            while not takes_signals(process.pid):
                time.sleep(0.001)
        else:
            assert process.stdout.readline() == "under way\n"
        os.killpg(process.pid, number)
        assert process.wait(30) == TOLD[number]
    finally:
        process.kill()
    said = [line for line in (tmp_path / "errors").read_text().splitlines() if number.name in line or "Error" in line]
    assert said == [f"told to end by {number.name} before it began: nothing is lost"]


def test_what_lightning_would_resume_under_slurm_is_no_other_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "hpc_ckpt_1.ckpt").write_text("of another job")
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    answer = call("fit", "--config", write(tmp_path / "tiny.yaml", tiny()), cwd=tmp_path, SLURM_JOB_NAME="job", **job)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"hpc_ckpt_1.ckpt", "version_0"}
