"""One rollout of every agent makes a batch, however fast each task is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cdrl_pl.training.datamodule import RolloutDataset


class Stream:
    """A pool in which so many rollouts wait at each turn."""

    def __init__(self, *waiting: int) -> None:
        self.waiting, self.taken = list(waiting), []
        self.config = SimpleNamespace(concatenate=True)
        self.worker_group = SimpleNamespace(workers=[], waited=0.0, played=0.0, restarts=0)
        self.waited = 0.0

    def publish(self, *_: Any) -> None:
        pass

    start = wait = publish

    def joinable(self) -> int:
        return self.waiting[len(self.taken)]

    def take(self, count: int) -> int:
        self.taken.append(count)
        return count


def test_agents_join_equally_many_rollouts_however_fast_they_are() -> None:
    """As the authors' program joins those that wait: a fast task's clock would run away from a slow one's."""
    fast, slow = Stream(3, 2, 3), Stream(1, 2, 2)
    source = SimpleNamespace(policy_version=0, epoch_over=False, policies=lambda: {"fast": None, "slow": None})
    batches = iter(RolloutDataset({"fast": fast, "slow": slow}, source, most=9))  # type: ignore[arg-type, dict-item]
    for _ in range(3):
        next(batches)
    assert fast.taken == slow.taken == [1, 2, 2]
