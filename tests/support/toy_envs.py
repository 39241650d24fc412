"""Toy environments, registered with Gymnasium by importing this module, and the small network that plays them."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete

from cdrl_pl.envs import EnvConfig, EnvSpec
from cdrl_pl.networks import NetworkConfig, PolicyNetwork

COUNTING_SPEC = EnvSpec((3,), "float32", ("0", "1", "2"))
SMALL = NetworkConfig(trunk="mlp", depth=1, hidden=8, lstm=4)


class CountingEnv(gym.Env):
    """Everything is known: the observation is [episode, step, last action], the reward episode + action / 4.

    Episode k (from 1) takes 2 + k % 4 steps; it is terminated where k is even, truncated where k is odd.
    """

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Discrete(3)

    def __init__(self) -> None:
        self.episode = self.total = 0

    def _obs(self, action: int) -> np.ndarray:
        return np.array([self.episode, self.t, action], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(-1), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t, self.total = self.t + 1, self.total + 1
        ended, odd = self.t == 2 + self.episode % 4, self.episode % 2 == 1
        return self._obs(int(action)), self.episode + 0.25 * int(action), ended and not odd, ended and odd, {}


class OddError(Exception):
    """Cannot be rebuilt from its arguments, so it cannot be pickled."""

    def __init__(self, *, code: int, hint: str) -> None:
        super().__init__(f"code {code}: {hint}")


class RaisingEnv(CountingEnv):
    """Raises in its constructor, in reset, or in its third step."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self._raise_in("init")

    def _raise_in(self, where: str) -> None:
        if where == self.where:
            raise OddError(code=7, hint=f"the toy broke in {where}")

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        self._raise_in("reset")
        return super().reset(**kwargs)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.total == 2:
            self._raise_in("step")
        return super().step(action)


def first(marker: str) -> bool:
    """Whether nobody made the marker file before; always, where there is none."""
    try:
        if marker:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class KillingEnv(CountingEnv):
    """SIGKILLs its process after ``at`` steps: once, by whoever makes the marker file first, or always (no marker)."""

    def __init__(self, marker: str = "", at: int = 2) -> None:
        super().__init__()
        self.marker, self.at = marker, at

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.total == self.at and first(self.marker):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class HangingEnv(CountingEnv):
    """Hangs for good in its third step, after writing its process id to the named pipe, where there is one.

    It hangs always, or once: by whoever makes the marker file first.
    """

    def __init__(self, pipe: str = "", marker: str = "") -> None:
        super().__init__()
        self.pipe, self.marker = pipe, marker

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.total == 2 and first(self.marker):
            if self.pipe:
                with open(self.pipe, "w") as pipe:
                    pipe.write(f"{os.getpid()}\n")
            threading.Event().wait()
        return super().step(action)


class NotFiniteEnv(CountingEnv):
    """Gives ``value`` as the reward or in the observation of its seventh step, or in the observation of a reset."""

    def __init__(self, where: str, value: float) -> None:
        super().__init__()
        self.where, self.value = where, value

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        obs, info = super().reset(**kwargs)
        if self.where == "reset" and self.episode == 2:
            obs[1] = self.value
        return obs, info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, *rest = super().step(action)
        if self.total == 7 and self.where == "reward":
            reward = self.value
        if self.total == 7 and self.where == "observation":
            obs[1] = self.value
        return obs, reward, *rest


class OffsetEnv(CountingEnv):
    """Its actions are 5, 6 and 7, and its one step ends the episode in both ways at once."""

    action_space = Discrete(3, start=5)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return super().step(action)[0], 0.0, True, True, {}


class DictEnv(CountingEnv):
    """Observations that the agents cannot read."""

    observation_space = Dict({"position": Box(-1, 1, (2,), np.float32)})


class ImageEnv(CountingEnv):
    """Images of one colour: red 200, green 100, blue 50, in the lower half of the picture black."""

    def __init__(self, shape: tuple[int, ...] = (60, 60, 3)) -> None:
        super().__init__()
        self.observation_space = Box(0, 255, shape, np.uint8)

    def _obs(self, action: int) -> np.ndarray:
        image = np.empty(self.observation_space.shape, np.uint8)
        image[...] = (200, 100, 50)
        image[30:] = 0
        return image


class Renamed(gym.Wrapper):
    """Five actions over an environment that has names for one alone."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.action_space = Discrete(5)

    def step(self, action: int) -> Any:
        return self.env.step(int(action) % 3)


class NamedEnv(CountingEnv):
    def get_action_meanings(self) -> list[str]:
        return ["NOOP"]


class ArrayRewardEnv(CountingEnv):
    """Rewards of shape (1,), or of ``size`` numbers."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.size = size

    def step(self, action: int) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, np.full(self.size, reward), *rest


class ParentEnv(CountingEnv):
    """Starts a process of its own, as simulators do."""

    def __init__(self) -> None:
        super().__init__()
        child = mp.get_context("fork").Process(target=print)
        child.start()
        child.join()


class ScaledEnv(CountingEnv):
    """Its own option decides what it pays."""

    def __init__(self, pay: float = 1.0) -> None:
        super().__init__()
        self.pay = pay

    def step(self, action: int) -> Any:
        obs, _, *rest = super().step(action)
        return obs, self.pay, *rest


class SlowEnv(CountingEnv):
    """From its 31st step on, each takes longer than anybody waits; says so by a file."""

    def step(self, action: int) -> Any:
        if self.total >= 30:
            Path(os.environ["SLOW_MARKER"]).touch()
            time.sleep(2.0)
        return super().step(action)


def renamed(**kwargs: Any) -> gym.Env:
    return Renamed(NamedEnv(**kwargs))


gym.register("RenamedToy-v0", "toy_envs:renamed", disable_env_checker=True)
for name in (
    "Slow",
    "Named",
    "ArrayReward",
    "Parent",
    "Scaled",
    "Counting",
    "Raising",
    "Killing",
    "Hanging",
    "NotFinite",
    "Offset",
    "Dict",
    "Image",
):
    gym.register(f"{name}Toy-v0", f"toy_envs:{name}Env", disable_env_checker=True)


def toy(name: str, max_episode_steps: int | None = None, **kwargs: Any) -> EnvConfig:
    """The config of a toy, e.g. toy("Raising", where="step"); its id says that this module registers it."""
    return EnvConfig(f"toy_envs:{name}Toy-v0", max_episode_steps=max_episode_steps, kwargs=kwargs)


def make_network(seed: int = 0, spec: EnvSpec = COUNTING_SPEC, config: NetworkConfig = SMALL) -> PolicyNetwork:
    """A policy network whose logits and values are far enough from 0 to tell networks apart."""
    torch.manual_seed(seed)
    network = PolicyNetwork(config, spec.obs_shape, spec.num_actions)
    with torch.no_grad():
        for head in (network.policy_head, network.value_head, network.distill_head):
            head.weight.mul_(20.0)
            head.bias.normal_()
    return network
