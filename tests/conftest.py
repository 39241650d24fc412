"""What several test files share: one thread, repeatable hypothesis runs, and pools that are always closed."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings
from toy_envs import COUNTING_SPEC, SMALL

from cdrl_pl.envs import EnvConfig, EnvSpec, View
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.rollouts.pool import Pool

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")

POOL = {"workers": 1, "copies": 2, "steps": 5, "stall_timeout": 60.0}


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test draws the same numbers from torch, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture
def make_pool() -> Iterator[Callable[..., Pool]]:
    """Makes pools of toy environments that are closed after the test, however it ends."""
    pools: list[Pool] = []

    def make(
        env: EnvConfig,
        spec: EnvSpec = COUNTING_SPEC,
        network: NetworkConfig = SMALL,
        seed: int = 0,
        interrupted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        others: dict[View, EnvSpec] | None = None,
        **options: Any,
    ) -> Pool:
        config = PoolConfig(**{**POOL, **options})
        pools.append(Pool("toy", env, spec, network, config, (seed,), interrupted, clock, others))
        return pools[-1]

    yield make
    for process in mp.active_children():
        if process.name.startswith("toy-"):
            process.kill()  # a worker that hangs would make close wait
    for pool in pools:
        pool.close()
