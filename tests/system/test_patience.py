"""Waits are bounded, and what a stopped process did not live through does not count."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pools import MakePool, started, take
from toy_envs import toy

from cdrl_pl.rollouts.worker_group import WorkerError
from cdrl_pl.system import patience
from cdrl_pl.system.patience import Patience


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def looks(now: list[float], waited: Patience, *seconds: float) -> list[bool]:
    over = []
    for passed in seconds:
        now[0] += passed
        over.append(waited.is_over())
    return over


def test_patience_ends_unless_something_comes(now: list[float]) -> None:
    waited = Patience(2.0)
    assert looks(now, waited, 0.5, 0.5, 0.5, 0.5, 0.5) == [False] * 4 + [True]
    waited.renew()
    assert looks(now, waited, 1.0, 1.0, 1.0) == [False, False, True]


def test_a_stop_counts_for_a_second(now: list[float]) -> None:
    assert looks(now, Patience(2.0), 0.5, 3600.0, 0.4, 0.2) == [False, False, False, True]


def test_a_pool_that_is_stopped_while_it_waits_goes_on(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, now: list[float]
) -> None:
    pool = started(make_pool(toy("Counting"), stall_timeout=3.0))
    take(pool, 1)
    group, silent = pool.worker_group, [3600.0]

    def wait_for_a_while(timeout: float) -> bool:
        now[0] += silent.pop() if silent else timeout
        return False

    with monkeypatch.context() as patch, pytest.raises(WorkerError, match="waited 3 s for a rollout"):
        patch.setattr(group, "receive", wait_for_a_while)
        group.receive_until(lambda: False, "a rollout")
    assert now[0] == 3600.0 + 2.5
