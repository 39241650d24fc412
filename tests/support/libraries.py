"""Imported policies beside what their libraries said: of single frames, of courses of play, of returns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cdrl_pl.envs import EnvConfig, make_game
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.networks import PolicyNetwork


def stacked(frames: np.ndarray) -> Tensor:
    """Four frames together, the newest last: [N + 3, H, W] -> [N, 4, H, W]."""
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2).copy())


def replayed(env: EnvConfig, actions: np.ndarray) -> np.ndarray:
    """The single frames [N, H, W] before each of the actions [N], as this program's game shows them.

    The field's wrappers begin a game by actions 1 and 2, ours by FIRE, which is 1.
    """
    game, frames = make_game(env, 0), []
    out = np.zeros(game.spec.obs_shape, np.uint8)

    def begin() -> None:
        game.reset(out)
        game.step(2, out)

    begin()
    for action in actions:
        frames.append(out[-1].copy())
        if any(game.step(int(action), out)[1:]):
            begin()
    game.close()
    return np.stack(frames)


def log_probs(network: PolicyNetwork, obs: Tensor) -> Tensor:
    """[N, A] of single observations."""
    logits, *_ = network.act(obs, network.initial_state(len(obs)), torch.zeros(len(obs), dtype=torch.bool))
    return logits.log_softmax(-1)


def plays_otherwise(network: PolicyNetwork, task: str, theirs: np.ndarray, episodes: int = 20) -> bool:
    """Whether greedy returns here are three standard errors (and a hundredth) from those of the library's own games.

    Args:
        network: the imported policy.
        task: id of the environment.
        theirs: returns that the library found.
        episodes: number of episodes here.
    """
    ours = evaluate(network, EnvConfig(task), episodes, greedy=True, copies=episodes)
    noise = np.sqrt(ours.std**2 / episodes + theirs.var() / len(theirs))
    return bool(abs(ours.mean - theirs.mean()) > 3 * noise + 0.01 * abs(theirs.mean()))
