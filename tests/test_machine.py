"""What is chosen by the machine where the config leaves it open."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from cdrl_pl import machine
from cdrl_pl.rollouts.pool import PoolConfig


@pytest.mark.parametrize(
    ("cores", "agents", "ranks", "wanted"), [(2, 1, 1, 2), (2, 2, 1, 1), (2, 3, 2, 1), (16, 2, 2, 4)]
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, agents: int, ranks: int, wanted: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert machine.workers_per_agent(agents, ranks) == wanted


@pytest.mark.parametrize(
    ("cores", "workers", "ranks", "wanted"), [(2, 2, 1, 1), (8, 4, 1, 4), (16, 8, 2, 4), (2, 9, 1, 1)]
)
def test_the_learner_takes_the_cores_that_workers_leave(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, ranks: int, wanted: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert machine.learner_threads(workers, ranks) == wanted


@pytest.mark.parametrize(("native", "wanted"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bf16_is_for_cpus_that_have_it(monkeypatch: pytest.MonkeyPatch, native: bool, wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native}, raising=False)
    assert machine.fast_precision() == wanted


def test_what_the_config_says_holds() -> None:
    assert replace(PoolConfig(), workers=3, bf16=False) == PoolConfig(workers=3, bf16=False)
    with pytest.raises(ValueError, match=r"pool.workers is 0; it must be 1 or more"):
        PoolConfig(workers=0)
