"""Environments: Atari games by a lean path on the emulator, any other through Gymnasium; one interface. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cdrl_pl.envs.atari import AtariGame
from cdrl_pl.envs.config import EnvConfig, EnvError, EnvSpec, is_atari, renamed, resolve, with_noops
from cdrl_pl.envs.games import Game
from cdrl_pl.envs.gym import GymGame
from cdrl_pl.envs.view import View

__all__ = [
    "EnvConfig",
    "EnvError",
    "EnvSpec",
    "Game",
    "View",
    "check_drawn",
    "describe",
    "is_atari",
    "make_game",
    "renamed",
    "resolve",
    "with_noops",
]


def make_game(config: EnvConfig, seed: int, others: Sequence[View] = (), render: bool = False) -> Game:
    """A running copy of the task; the same config and seed give the same game.

    Args:
        config: the task.
        seed: of the copy, without unit.
        others: views beside the config's own, through which each observation is written as well.
        render: pictures will be asked for.

    Raises:
        EnvError: what ``resolve`` raises, or spaces that the agents cannot use.
    """
    config = resolve(config)
    return AtariGame(config, seed, others) if is_atari(config) else GymGame(config, seed, others, render)


def describe(config: EnvConfig) -> EnvSpec:
    """The task's spec, found by making it once; raises as ``make_game``."""
    game = make_game(config, seed=0)
    try:
        return game.spec
    finally:
        game.close()


def check_drawn(config: EnvConfig) -> None:
    """Raises EnvError where the task cannot be drawn, such as for want of a library; else as ``make_game``."""
    game = make_game(config, seed=0, render=True)
    try:
        game.reset(np.empty(game.spec.obs_shape, game.spec.obs_dtype))
        game.render()
    finally:
        game.close()
