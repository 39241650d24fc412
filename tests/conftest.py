"""What several test files share: one thread, repeatable hypothesis runs, and pools that are always closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings
from toy_envs import COUNTING_SPEC

from cdrl_pl.envs import EnvConfig, EnvSpec
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.rollouts.pool import Pool, PoolConfig

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")

SMALL = NetworkConfig(trunk="mlp", depth=1, hidden=8, lstm=4)
POOL = dict(workers=1, copies=2, steps=5, stall_timeout=30.0)


def make_network(seed: int = 0, spec: EnvSpec = COUNTING_SPEC, config: NetworkConfig = SMALL) -> PolicyNetwork:
    """A policy network whose logits and values are far enough from 0 to tell networks apart."""
    torch.manual_seed(seed)
    network = PolicyNetwork(config, spec.obs_shape, spec.num_actions)
    with torch.no_grad():
        for head in (network.policy_head, network.value_head, network.distill_head):
            head.weight.mul_(20.0)
            head.bias.normal_()
    return network


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
        **options: Any,
    ) -> Pool:
        pools.append(Pool("toy", env, spec, network, PoolConfig(**{**POOL, **options}), (seed,), interrupted))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
