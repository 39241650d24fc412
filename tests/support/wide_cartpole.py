"""CartPole with more actions, registered with Gymnasium by importing this module; light, since workers import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Discrete

from cdrl_pl.envs import EnvConfig

CARTPOLE, WIDE = "CartPole-v1", "WideCartPole-v0"


class WideCartPole(CartPoleEnv):
    """CartPole with five buttons, every second of which pushes left."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.action_space = Discrete(5)

    def step(self, action: int) -> Any:
        return super().step(int(action) % 2)


gym.register(WIDE, "wide_cartpole:WideCartPole", max_episode_steps=500)


@dataclass
class GraphEnv(EnvConfig):
    """An EnvConfig whose unpickling in a worker process imports this module, and so registers WideCartPole there."""
