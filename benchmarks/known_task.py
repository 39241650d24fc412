"""A task that shows which decision it is at, and can be learned. Light: workers import it.

An observation says the episode's seed, the step, and a cue: the action that pays. What an agent has learned from can so
be read off its rollouts, episode by episode.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
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
    """An episode takes 2 to 4 steps, as its seed says; those of odd seeds are cut.

    Args:
        actions: how many there are; the first is never right where there are more than two.
        faults: folder in which a file ``raise`` or ``hang`` makes whoever takes it first do that; who hangs writes
            its process id to ``hung``. Empty: none.
    """

    observation_space = Box(0.0, 1.0, (4,), np.float32)

    def __init__(self, actions: int = 2, faults: str = "") -> None:
        self.action_space = Discrete(actions)
        self._first, self._faults = actions - 2, faults
        self._seed, self._t = 0, 0

    def _cue(self) -> int:
        return (self._seed >> (self._t + 2)) % 2

    def _obs(self) -> np.ndarray:
        high, low = divmod(self._seed, HALF)
        return np.array([high / HALF, low / HALF, self._t / FEW, self._cue()], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        assert seed is not None
        self._seed, self._t = seed, 0
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Pays 1 for the action that the cue names, else 0."""
        if self._faults:
            self._break()
        reward = float(action == self._first + self._cue())
        self._t += 1
        ended, cut = self._t == length(self._seed), self._seed % 2 == 1
        return self._obs(), reward, ended and not cut, ended and cut, {}

    def _break(self) -> None:
        if self._taken("raise"):
            raise RuntimeError("raised on purpose")
        if self._taken("hang"):
            (Path(self._faults) / "hung").write_text(str(os.getpid()))
            threading.Event().wait()

    def _taken(self, what: str) -> bool:
        try:
            (Path(self._faults) / what).unlink()
        except FileNotFoundError:
            return False
        return True


gym.register("KnownTask-v0", "benchmarks.known_task:KnownEnv", disable_env_checker=True)


def known(actions: int = 2) -> EnvConfig:
    """The task with so many actions."""
    return EnvConfig("benchmarks.known_task:KnownTask-v0", kwargs={"actions": actions})


def length(seed: int) -> int:
    """Steps of the episode with this seed."""
    return 2 + seed % 3


def read(obs: Any) -> Decision:
    """Which decision an observation is of."""
    high, low, step, _ = np.asarray(obs, np.float64)
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
