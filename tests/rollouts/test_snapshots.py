"""Snapshots of games, from which they go on bit for bit."""

from __future__ import annotations

import pytest
from games import play, random_actions, same, start
from numpy.testing import assert_array_equal

from cdrl_pl.envs import EnvConfig, Game, View

SNAPSHOTS = {
    "Pong-2017": EnvConfig("Pong-2017", noop_max=5, max_episode_steps=70),
    "Bowling-2017": EnvConfig("Bowling-2017", noop_max=5, max_episode_steps=70),
    "CartPole-v1": EnvConfig("CartPole-v1", max_episode_steps=20),
    "stacked": EnvConfig("Pong-2017", noop_max=5, max_episode_steps=70, view=View(84, (0, 210), maximum=True, stack=4)),
    "in colour": EnvConfig("Bowling-2017", noop_max=5, max_episode_steps=70, view=View(colour=True, maximum=True)),
    "numbers, stacked": EnvConfig("CartPole-v1", max_episode_steps=20, view=View(stack=3)),
}


def actions_of(game: Game, count: int, seed: int) -> list[int]:
    return random_actions(count, game.spec.num_actions, seed)


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_restored_game_goes_on_bit_for_bit(name: str, seed: int) -> None:
    """Through the ends of episodes, whose beginnings are drawn; also into a game of another seed."""
    game, _ = start(SNAPSHOTS[name], seed=3)
    play(game, actions_of(game, 47, seed=1))
    snapshot = game.snapshot()
    expected = play(game, actions_of(game, 150, seed=2))

    resumed, out = start(SNAPSHOTS[name], seed=seed)
    resumed.restore(snapshot, out)
    assert same(play(resumed, actions_of(game, 150, seed=2)), expected)
    assert sum(seen[2] or seen[3] for seen in expected) >= 2  # episodes did end


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_restoring_writes_the_observation_of_the_snapshot(name: str) -> None:
    game, out = start(SNAPSHOTS[name])
    last = play(game, actions_of(game, 30, seed=1))[-1][0]
    snapshot = game.snapshot()
    play(game, actions_of(game, 30, seed=2))
    game.restore(snapshot, out)
    assert_array_equal(out, last)


@pytest.mark.parametrize("name", ["Bowling-2017", "CartPole-v1"])
def test_a_snapshot_does_not_follow_its_game(name: str) -> None:
    game, out = start(SNAPSHOTS[name])
    snapshot = game.snapshot()
    first = play(game, actions_of(game, 30, seed=1))
    game.restore(snapshot, out)
    assert same(play(game, actions_of(game, 30, seed=1)), first)
