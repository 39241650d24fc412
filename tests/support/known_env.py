"""An environment that shows which decision it is at: its episode's seed, and the step. Light: workers import it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from cdrl_pl.envs import EnvConfig

HALF, FEW = 2**16, 2**8  # powers of two: 32-bit floats say these fractions exactly


class Decision(NamedTuple):
    """What is decided on: the step of the episode with this seed."""

    seed: int
    step: int


class KnownEnv(gym.Env):
    """An episode takes 2 to 4 steps, as its seed says; those of odd seeds are cut. Action 0 pays."""

    observation_space = Box(0.0, 1.0, (3,), np.float32)

    def __init__(self, actions: int = 2) -> None:
        self.action_space = Discrete(actions)
        self.seed, self.t = 0, 0

    def _obs(self) -> np.ndarray:
        high, low = divmod(self.seed, HALF)
        return np.array([high / HALF, low / HALF, self.t / FEW], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        assert seed is not None
        self.seed, self.t = seed, 0
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        ended, cut = self.t == length(self.seed), self.seed % 2 == 1
        return self._obs(), float(action == 0), ended and not cut, ended and cut, {}


gym.register("KnownToy-v0", "known_env:KnownEnv", disable_env_checker=True)


def known(actions: int = 2) -> EnvConfig:
    """The task with so many actions."""
    return EnvConfig("known_env:KnownToy-v0", kwargs={"actions": actions})


def length(seed: int) -> int:
    """Steps of the episode with this seed."""
    return 2 + seed % 3


def read(obs: Any) -> Decision:
    """Which decision an observation is of."""
    high, low, step = np.asarray(obs, np.float64)
    return Decision(int(high * HALF * HALF + low * HALF), int(step * FEW))


@cache
def episode_seed(entropy: tuple[int, ...], copies: int, copy: int, episode: int) -> int:
    """The seed of an episode, counted from 0, of one of a worker's copies.

    Args:
        entropy: of the worker.
        copies: that it plays.
        copy: which of them.
        episode: its number.
    """
    game = np.random.SeedSequence(entropy).spawn(copies + 1)[copy].generate_state(1)[0]
    return int(np.random.SeedSequence([int(game), episode]).generate_state(1)[0])
