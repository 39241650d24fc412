"""What a pool of worker processes survives, and how it ends.

No test waits longer than a bound: the pool's stall timeout, or the seconds given to ``join`` and ``select``.
"""

from __future__ import annotations

import gc
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import REPOSITORY
from pools import MakePool, Replay, kill, started, take, worker_processes
from toy_envs import COUNTING_SPEC, SMALL, make_network, toy

from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.pool import Pool
from cdrl_pl.rollouts.worker_group import WorkerError
from cdrl_pl.system.stop import Stopped

# Faults


@pytest.mark.parametrize(("workers", "deterministic"), [(1, False), (2, True)])
def test_fault_01_a_killed_worker_is_replaced_and_the_stream_goes_on(
    make_pool: MakePool, workers: int, deterministic: bool
) -> None:
    """Its replacement starts new episodes with an empty memory, and everything it plays from there on is whole."""
    pool = started(make_pool(toy("Counting"), workers=workers, queue=1, deterministic=deterministic))
    take(pool, 4)
    victim = worker_processes(pool)[0]
    kill(victim)
    rollouts = [rollout for rollout in take(pool, 10) if rollout.worker == 0]
    assert pool.worker_group.restarts == 1
    assert len(worker_processes(pool)) == workers and victim.pid not in [p.pid for p in worker_processes(pool)]
    first = next(i for i, rollout in enumerate(rollouts) if (rollout.obs[0] == torch.tensor([1, 0, -1])).all())
    assert first <= 1  # at most one rollout of the dead worker was on its way
    replay = Replay(make_network(), copies=2)
    for rollout in rollouts[first:]:
        replay.check(rollout)


def test_fault_02_a_worker_that_dies_inside_a_step_loses_only_its_own_rollout(
    make_pool: MakePool, tmp_path: Path
) -> None:
    """It dies in the third of five steps; what is handed over is as if nothing had happened."""
    pool = started(make_pool(toy("Killing", marker=str(tmp_path / "died")), copies=1, deterministic=True))
    replay = Replay(make_network(), copies=1)
    for rollout in take(pool, 3):
        replay.check(rollout)
    assert pool.worker_group.restarts == 1


def test_fault_03_an_exception_in_a_worker_is_reported_whole(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Raising", where="step"), workers=1, seed=42))
    with pytest.raises(WorkerError) as caught:
        pool.next()
    text = str(caught.value)
    assert "worker 0 of toy (seed (42, 0, 0, 0)) raised OddError: code 7: the toy broke in step" in text
    assert "Traceback" in text and "toy_envs.py" in text and "raise OddError" in text


@pytest.mark.parametrize("where", ["init", "reset"])
def test_fault_04_an_exception_before_the_first_step_is_reported(make_pool: MakePool, where: str) -> None:
    pool = started(make_pool(toy("Raising", where=where)))
    with pytest.raises(WorkerError, match=f"raised OddError: code 7: the toy broke in {where}"):
        pool.next()


def test_fault_05_a_worker_that_always_dies_ends_the_run(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Killing"), max_restarts=2))
    with pytest.raises(WorkerError, match=r"worker 0 of toy .*died 3 times in a row.*exit code -9"):
        pool.next()
    assert pool.worker_group.restarts == 2


def test_fault_05_deaths_count_only_without_progress(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=1, max_restarts=1))
    for deaths in range(1, 4):
        kill(worker_processes(pool)[0])
        take(pool, 3)
        assert pool.worker_group.restarts == deaths


@pytest.mark.parametrize("deterministic", [False, True])
def test_fault_06_workers_that_hang_end_the_run_within_the_stall_timeout(
    make_pool: MakePool, deterministic: bool
) -> None:
    pool = started(make_pool(toy("Hanging"), deterministic=deterministic, stall_timeout=1.0))
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"waited 1 s for a .* of toy; workers \[0\] are late"):
        pool.next()
    assert time.monotonic() - began < 20


def test_fault_06_a_worker_that_hangs_is_replaced_while_its_peer_plays(
    make_pool: MakePool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not before its peer has finished 20 rollouts, nor before 15 s by the pool's clock; the stream never stops."""
    now = [0.0]
    env = toy("Hanging", marker=str(tmp_path / "hung"))
    pool = started(make_pool(env, workers=2, copies=1, hang_rollouts=20, clock=lambda: now[0]))
    played = take(pool, 100)
    while len({rollout.worker for rollout in played[-40:]}) > 1:  # until both have started, and one hangs
        played += take(pool, 40)
    hung = 1 - played[-1].worker
    assert pool.worker_group.restarts == 0  # far behind, but by the clock no time has passed
    now[0] = 15.1
    played = take(pool, 3)
    while pool.worker_group.restarts == 0 or played[-1].worker != hung:
        assert len(played) < 50_000
        played += take(pool, 1)
    assert pool.worker_group.restarts == 1
    assert f"worker {hung} of toy has finished nothing for 15 s" in caplog.text


def test_fault_08_a_worker_that_is_slow_is_not_taken_for_hung(make_pool: MakePool, tmp_path: Path) -> None:
    """The control of the test above: time passes, but the peer is not far enough ahead."""
    now = [0.0]
    env = toy("Hanging", marker=str(tmp_path / "hung"))
    pool = started(make_pool(env, workers=2, copies=1, hang_rollouts=10**6, clock=lambda: now[0]))
    for _ in range(300):
        now[0] += 100.0
        pool.next()
    assert pool.worker_group.restarts == 0


def test_fault_08_the_rollouts_of_every_worker_are_counted(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), workers=2))
    counts = Counter(rollout.worker for rollout in take(pool, 40))
    counts.update(index for index, _ in pool._ready)
    assert {w.index: w.rollouts for w in pool.worker_group.workers} == counts and min(counts.values()) > 0


def test_fault_07_what_a_worker_sent_before_it_died_counts_once_and_nothing_is_read_after(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=2, copies=1))
    old = pool.worker_group.workers[0]
    deadline, second = time.monotonic() + 60, pool._slots[1]["log_probs"]
    while not second[-1].any():  # until it writes the second rollout: the first then lies in its pipe, unread
        assert time.monotonic() < deadline
    kill(old.process)
    rollouts = take(pool, 6)
    assert pool.worker_group.restarts == 1 and pool.worker_group.workers[0] is not old
    assert old.connection.closed  # its replacement has another, so a late reply has nowhere to arrive
    starts = [number for number, rollout in enumerate(rollouts) if number and rollout.resets[0].all()]
    assert len(starts) == 1  # the replacement's first
    for part in (rollouts[: starts[0]], rollouts[starts[0] :]):
        replay = Replay(make_network(), copies=1)
        for rollout in part:
            replay.check(rollout)


def test_fault_10_a_run_that_is_told_to_end_stops_waiting(make_pool: MakePool) -> None:
    told: list[bool] = []
    pool = started(make_pool(toy("Hanging"), interrupted=lambda: bool(told)))
    told.append(True)
    with pytest.raises(Stopped, match="told to end"):
        pool.next()


TRAINER = """
import sys
import torch
from toy_envs import COUNTING_SPEC, SMALL, make_network, toy
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.pool import Pool
torch.set_num_threads(1)
if __name__ == "__main__":
    pool = Pool("toy", toy("Hanging", pipe=sys.argv[1]), COUNTING_SPEC, SMALL, PoolConfig(workers=2, copies=1), (0,))
    pool.publish(make_network(), 0)
    pool.start()
    pool.next()
"""


def read_lines(pipe: int, count: int, seconds: float) -> list[str]:
    """That many lines from a named pipe; fails after so many seconds."""
    text, deadline = "", time.monotonic() + seconds
    while text.count("\n") < count:
        assert select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0], "nothing came"
        text += os.read(pipe, 100).decode()
    return text.split()


@pytest.mark.slow
def test_fault_11_hung_workers_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)  # open for writing too, so that it never reads as ended
    paths = os.pathsep.join([str(REPOSITORY / "tests" / "support"), str(REPOSITORY)])
    trainer = subprocess.Popen([sys.executable, "-c", TRAINER, path], env={**os.environ, "PYTHONPATH": paths})
    try:
        workers = [os.pidfd_open(int(pid)) for pid in read_lines(pipe, count=2, seconds=60)]
    finally:
        trainer.kill()
        trainer.wait(10)
        os.close(pipe)
    ended = [bool(select.select([worker], [], [], 20)[0]) for worker in workers]
    for worker, gone in zip(workers, ended, strict=True):
        if not gone:
            signal.pidfd_send_signal(worker, signal.SIGKILL)
        os.close(worker)
    assert ended == [True, True]


def test_fault_12_shared_memory_has_no_name_to_leak(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting")))
    pool.next()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if re.search(r"/pym-", line)]
    assert mapped and all(line.endswith("(deleted)") for line in mapped)


@pytest.mark.slow
def test_fault_31_replacing_workers_leaks_no_file_descriptor(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), queue=1, max_restarts=5))
    counts = []
    for _ in range(4):
        kill(worker_processes(pool)[0])
        take(pool, 3)
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert pool.worker_group.restarts == 4 and counts[1:] == counts[:-1]


def test_a_checkpoint_survives_a_worker_that_died(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), workers=2, deterministic=True, stall_timeout=5.0))
    take(pool, 2)
    kill(worker_processes(pool)[1])
    assert len(pool.state_dict()["workers"]) == 2


# Life


def test_close_leaves_no_process(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting"), workers=2))
    pool.next()
    workers = worker_processes(pool)
    pool.close()
    assert len(workers) == 2 and [w.exitcode for w in workers] == [0, 0]


@pytest.mark.slow
def test_close_ends_workers_that_hang(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Hanging"), workers=2, stall_timeout=0.5))
    with pytest.raises(WorkerError):
        pool.next()
    workers, began = worker_processes(pool), time.monotonic()
    pool.close()
    assert time.monotonic() - began < 20
    assert len(workers) == 2 and [w.exitcode for w in workers] == [-signal.SIGKILL] * 2


def test_close_after_an_error_leaves_no_process(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Raising", where="reset"), workers=2))
    with pytest.raises(WorkerError):
        pool.next()
    pool.close()
    assert not worker_processes(pool)


def test_close_and_start_may_come_twice(make_pool: MakePool) -> None:
    pool = started(make_pool(toy("Counting")))
    pool.start()
    assert len(worker_processes(pool)) == 1
    pool.close()
    pool.close()
    assert not worker_processes(pool)


def test_a_pool_that_is_dropped_ends_even_workers_that_hang(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    env = toy("Hanging", pipe=path)
    pool = started(Pool("dropped", env, COUNTING_SPEC, SMALL, PoolConfig(workers=2, copies=1), (0,)))
    read_lines(pipe, count=2, seconds=60)
    os.close(pipe)
    workers = worker_processes(pool)
    del pool
    gc.collect()
    for worker in workers:
        worker.join(10)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [-signal.SIGKILL] * 2


def test_workers_may_be_spawned(make_pool: MakePool) -> None:
    network = make_network()
    Replay(network, copies=2).check(started(make_pool(toy("Counting"), start_method="spawn"), network).next())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "pool.workers is 0"),
        ({"copies": 0}, "pool.copies is 0"),
        ({"steps": -1}, "pool.steps is -1"),
        ({"queue": 0}, "pool.queue is 0"),
        ({"max_restarts": 0}, "pool.max_restarts is 0"),
        ({"hang_rollouts": 0}, "pool.hang_rollouts is 0"),
        ({"stall_timeout": 0.0}, "pool.stall_timeout is 0.0"),
        ({"start_method": "fork"}, "pool.start_method is 'fork'"),
        ({"concatenate": True, "deterministic": True}, "cannot be used with pool.deterministic"),
    ],
)
def test_fault_28_pool_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        PoolConfig(**options)
