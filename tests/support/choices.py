"""A game in which two choices are made at once, and not every action may be played; registered by importing this."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from cdrl_pl.envs import EnvConfig


class Choices(gym.Env):
    """The observation says which of three and which of two pays; each that is right pays a half.

    One of the first three that does not pay may not be played, and playing it is an error.

    Args:
        where: the mask is said: "info", "parts" (there, one for each choice), "dict", "nowhere", "short" or "none", by
            which nothing may be played.
        joint: both choices as one action of six.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, where: str = "info", joint: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.where, self.joint = where, joint
        seen = Box(0.0, 1.0, (5,), np.float32)
        self.observation_space = (
            Dict({"seen": seen, "action_mask": Box(0, 1, (5,), np.int8)}) if where == "dict" else seen
        )
        self.action_space = Discrete(6) if joint else MultiDiscrete([3, 2], start=[1, 0])

    def get_action_meanings(self) -> list[Any]:
        return [f"{a}{b}" for a in "LMR" for b in "NF"] if self.joint else [["L", "M", "R"], ["N", "F"]]

    def _said(self) -> tuple[Any, dict[str, Any]]:
        self.wanted = self.np_random.integers([3, 2])
        self.banned = (self.wanted[0] + 1 + self.np_random.integers(2)) % 3
        obs = np.zeros(5, np.float32)
        obs[[self.wanted[0], 3 + self.wanted[1]]] = 1
        first = np.arange(3) != self.banned
        mask = np.repeat(first, 2) if self.joint else np.concatenate([first, [True, True]])
        said = {"info": mask, "parts": (mask[:3], mask[3:]), "short": mask[:4], "none": mask & False}.get(self.where)
        if self.where == "dict":
            return {"seen": obs, "action_mask": mask.astype(np.int8)}, {}
        return obs, {} if said is None else {"action_mask": said}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._said()

    def step(self, action: Any) -> Any:
        if not self.joint:
            assert self.action_space.contains(action), action
        first, second = divmod(int(action), 2) if self.joint else (int(action[0]) - 1, int(action[1]))
        assert self.where == "unchecked" or first != self.banned, "what may not be played was played"
        reward = 0.5 * (first == self.wanted[0]) + 0.5 * (second == self.wanted[1])
        self.t += 1
        obs, info = self._said()
        return obs, reward, self.t == 8, False, info

    def render(self) -> Any:
        return np.zeros((16, 16, 3), np.uint8)


class Narrow(gym.Wrapper):
    """Two of the first three actions."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.action_space = MultiDiscrete([2, 2], start=[1, 0])


gym.register("Choices-v0", "choices:Choices", disable_env_checker=True)


def choices(masked: bool = True, **kwargs: Any) -> EnvConfig:
    return EnvConfig("choices:Choices-v0", kwargs=kwargs, action_mask=masked)
