"""What tests of environments share: games started, played and compared."""

from __future__ import annotations

import numpy as np

from cdrl_pl.envs import EnvConfig, Game, make_game

Seen = tuple[np.ndarray, float, bool, bool]


def blank(game: Game) -> np.ndarray:
    return np.zeros(game.spec.obs_shape, game.spec.obs_dtype)


def start(config: EnvConfig, seed: int = 0) -> tuple[Game, np.ndarray]:
    """A game at the start of its first episode, and what is seen there."""
    game = make_game(config, seed)
    out = blank(game)
    game.reset(out)
    return game, out


def play(game: Game, actions: list[int]) -> list[Seen]:
    """What is seen after each action; an ended episode is followed by the next, whose first observation counts too."""
    seen = []
    for action in actions:
        out = blank(game)
        reward, terminated, truncated = game.step(action, out)
        seen.append((out.copy(), reward, terminated, truncated))
        if terminated or truncated:
            game.reset(out)
            seen.append((out.copy(), 0.0, False, False))
    return seen


def same(one: list[Seen], other: list[Seen]) -> bool:
    """Whether two games showed the same, bit for bit."""
    return len(one) == len(other) and all(
        np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(one, other, strict=True)
    )


def random_actions(count: int, actions: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(actions, size=count).tolist()


def area_average(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The exact mean of the area under each of H x W pixels: a source pixel as H x W equal ones, then whole blocks."""
    (h, w), (H, W) = frame.shape, size
    return frame.repeat(H, 0).repeat(W, 1).reshape(H, h, W, w).mean((1, 3))
