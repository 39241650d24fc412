"""Videos of frozen policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cdrl_pl.envs import EnvConfig, Game
from cdrl_pl.evaluation.evaluate import Played, play, share_out
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.types import Episode

FRAMES_PER_SECOND = 15.0
SMALL = 400  # pixels of height below which a picture is doubled


def record(
    network: PolicyNetwork,
    env: EnvConfig,
    greedy: bool = False,
    seed: int = 0,
    max_steps: int = 10_000,
    tick: Callable[[Played], None] = lambda now: None,
) -> tuple[np.ndarray[Any, Any], Episode]:
    """Plays one episode.

    Args:
        network: the frozen policy.
        env: the task.
        greedy: the most probable action instead of a sampled one.
        seed: of the environment and of the sampling, without unit.
        max_steps: decisions after which the episode is taken as it is.
        tick: called about twice a second with how far it is; what it raises ends the episode.

    Returns:
        Its frames [N + 1, H, W, 3] uint8 of N decisions, and the episode.
    """
    frames: list[np.ndarray[Any, Any]] = []

    def watch(game: Game) -> None:
        frames.append(game.render().copy())

    ((episode,),) = play(network, env, share_out(1, 1, seed), greedy, tick, watch=watch, max_steps=max_steps)
    return np.stack(frames), episode


def save_episode(
    network: PolicyNetwork, env: EnvConfig, path: Path, seed: int, tick: Callable[[Played], None] = lambda now: None
) -> str:
    """Plays one sampled episode and writes it as a video; returns the path.

    Args:
        network: the frozen policy.
        env: the task.
        path: of the video, an .mp4 file; its folder is made.
        seed: of the environment and of the sampling, without unit.
        tick: called about twice a second with how far the episode is; what it raises ends it.

    Raises:
        OSError: the video cannot be written.
    """
    import cv2

    frames, episode = record(network, env, seed=seed, tick=tick)
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    scale = 2 if height < SMALL else 1
    size = (width * scale, height * scale)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FRAMES_PER_SECOND, size)
    if not writer.isOpened():
        raise OSError(f"{path} cannot be written as a video")
    for frame in frames:
        picture = cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST)
        writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    writer.release()
    print(f"{path}: return {episode.ret:g} in {episode.length} decisions")
    return str(path)
