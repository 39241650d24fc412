"""What tests of pools share: streams of rollouts, an independent replay of one, and workers by process."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from torch.testing import assert_close
from toy_envs import CountingEnv, make_network

from cdrl_pl.distributions import log_prob
from cdrl_pl.envs import EnvConfig, EnvSpec
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.rollouts.pool import Pool
from cdrl_pl.rollouts.shared_memory import SharedWeights
from cdrl_pl.types import Episode, Rollout

MakePool = Callable[..., Pool]
CONTEXT = mp.get_context("forkserver")
CARTPOLE = EnvConfig("CartPole-v1", max_episode_steps=12)
CARTPOLE_SPEC = EnvSpec((4,), "float32", ("0", "1"))


def started(pool: Pool, network: PolicyNetwork | None = None, version: int = 0) -> Pool:
    pool.publish(network or make_network(), version)
    pool.start()
    return pool


def take(pool: Pool, count: int) -> list[Rollout]:
    """The next rollouts, in memory of their own."""
    return [pool.next().clone() for _ in range(count)]


def differences(one: list[Rollout], other: list[Rollout]) -> list[str]:
    """Where two streams are not equal bit for bit, as "number of the rollout: field"."""

    def part(rollout: Rollout, name: str) -> Any:
        value = getattr(rollout, name)
        if name == "views":
            return {view: tensor.numpy().tobytes() for view, tensor in value.items()}
        return value.numpy().tobytes() if isinstance(value, torch.Tensor) else value

    return [
        f"{number}: {field.name}"
        for number, (a, b) in enumerate(zip(one, other, strict=True))
        for field in fields(Rollout)
        if part(a, field.name) != part(b, field.name)
    ]


def worker_processes(pool: Pool) -> list[mp.Process]:
    """The live workers, in order."""
    named = {p.name: p for p in mp.active_children()}
    return [named[name] for name in sorted(named) if name.startswith(f"{pool.name}-")]


def kill(process: mp.Process) -> None:
    """SIGKILLs a worker and waits until it is dead."""
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


class Replay:
    """Plays the counting toy in this process with the recorded actions, and says what every field must be."""

    def __init__(self, network: PolicyNetwork, copies: int) -> None:
        self.network = network
        self.envs = [CountingEnv() for _ in range(copies)]
        self.obs = torch.stack([torch.from_numpy(env.reset()[0]) for env in self.envs])
        self.resets = torch.ones(copies, dtype=torch.bool)
        self.state = network.initial_state(copies)
        self.returns, self.lengths = [0.0] * copies, [0] * copies

    @torch.no_grad()
    def check(self, rollout: Rollout) -> None:
        """The next rollout of this worker."""
        episodes = []
        assert_close(rollout.state, self.state)
        for t in range(rollout.steps):
            assert torch.equal(rollout.obs[t], self.obs) and torch.equal(rollout.resets[t], self.resets)
            logits, _, self.state = self.network.act(self.obs, self.state, self.resets)
            assert_close(rollout.log_probs[t], log_prob(logits, rollout.actions[t]))
            for b, env in enumerate(self.envs):
                obs, reward, terminated, truncated, _ = env.step(int(rollout.actions[t, b]))
                self.obs[b], final_value = torch.from_numpy(obs), 0.0
                self.returns[b] += reward
                self.lengths[b] += 1
                if truncated:
                    one = slice(b, b + 1)
                    no_reset = torch.zeros(1, dtype=torch.bool)
                    final_value = self.network.act(self.obs[one], self.state[one], no_reset)[1].item()
                assert rollout.rewards[t, b] == reward
                assert (rollout.terminated[t, b], rollout.truncated[t, b]) == (terminated, truncated)
                assert rollout.final_values[t, b].item() == pytest.approx(final_value, abs=1e-5)
                self.resets[b] = terminated or truncated
                if self.resets[b]:
                    episodes.append(Episode(self.returns[b], self.lengths[b]))
                    self.returns[b], self.lengths[b] = 0.0, 0
                    self.obs[b] = torch.from_numpy(env.reset()[0])
        assert torch.equal(rollout.obs[-1], self.obs) and torch.equal(rollout.resets[-1], self.resets)
        assert list(rollout.episodes) == episodes


def shared_weights(network: PolicyNetwork) -> SharedWeights:
    return SharedWeights(CONTEXT, sum(p.numel() for p in network.parameters()))


def write(weights: SharedWeights, network: PolicyNetwork, version: int) -> None:
    with weights.writing(version) as flat:
        flat[:] = parameters_to_vector(network.parameters()).detach().numpy()
