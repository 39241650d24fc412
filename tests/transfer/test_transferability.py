"""The number that is computed before any training: its returns, its regression, and that it is held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import new_network
from wide_cartpole import CARTPOLE

from benchmarks.transferability import GAMMA, HORIZON, Played, discounted, play, told, transferability
from cdrl_pl.envs import EnvConfig


def games(features: torch.Tensor, returns: np.ndarray) -> list[Played]:  # type: ignore[type-arg]
    """Games with these returns [N, B]."""
    return [Played(np.zeros((len(column), 1)), np.zeros(len(column), bool), column) for column in returns.T]


def test_returns_are_discounted_within_episodes_and_unknown_where_a_game_was_left() -> None:
    rng = np.random.default_rng(0)
    rewards, ends = rng.normal(size=1000), rng.random(1000) < 0.005
    found = discounted(rewards, ends)
    last = int(np.flatnonzero(ends)[-1])
    for step in range(1000):
        total, weight = 0.0, 1.0
        for later in range(step, 1000):
            total += weight * rewards[later]
            weight *= GAMMA
            if ends[later]:
                break
        if step <= last or step <= 999 - HORIZON:
            assert found[step] == pytest.approx(total)
        else:
            assert np.isnan(found[step])


def test_features_that_are_the_return_tell_all_of_it_and_noise_tells_none() -> None:
    rng = np.random.default_rng(1)
    returns = rng.normal(size=(500, 4))
    noise = torch.tensor(rng.normal(size=(500, 4, 5)))
    assert -0.1 < told(noise, games(noise, returns)) < 0.01
    knowing = torch.cat([noise, torch.tensor(returns)[..., None]], -1)
    assert told(knowing, games(knowing, returns)) > 0.99


def test_half_of_the_variance_is_half() -> None:
    rng = np.random.default_rng(2)
    seen, unseen = rng.normal(size=(2, 4000, 4))
    features = torch.tensor(seen)[..., None]
    assert told(features, games(features, seen + unseen)) == pytest.approx(0.5, abs=0.03)


def test_what_only_tells_games_apart_is_not_counted() -> None:
    """A feature that is constant in each game knows the means of the games that were fitted, and not of the next."""
    rng = np.random.default_rng(3)
    of_game = rng.normal(size=4)
    returns = of_game + 0.1 * rng.normal(size=(300, 4))
    apart = torch.eye(4, dtype=torch.float64).expand(300, 4, 4)
    assert told(apart, games(apart, returns)) < 0.1


def test_returns_that_are_not_known_are_left_out() -> None:
    rng = np.random.default_rng(4)
    returns = rng.normal(size=(500, 3))
    features = torch.tensor(returns)[..., None].clone()
    features[400:] = 1e3
    returns[400:] = np.nan
    assert told(features, games(features, returns)) > 0.99


def test_a_game_is_played_and_read_by_teacher_and_controls() -> None:
    played = [play(EnvConfig(CARTPOLE, max_episode_steps=40), 400, seed) for seed in range(3)]
    assert all(game.resets[0] and game.resets.sum() > 5 and game.obs.shape == (400, 4) for game in played)
    assert not np.array_equal(played[0].obs, played[1].obs)
    found, again = (transferability(new_network(1), played) for _ in range(2))
    assert found == again and 0 < found["state_information"] < np.log(2)
    assert found["features_above_random"] == pytest.approx(found["features"] - found["features_random"])
