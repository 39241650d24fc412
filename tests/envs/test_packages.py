"""Environments of other packages, seen as their own wrappers see them; wrappers, lives and FIRE."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from games import area_average, play, random_actions, same, start
from numpy.testing import assert_array_equal

from cdrl_pl.envs import EnvConfig, EnvError, View, describe, make_game, packages, resolve

SEEN = View(keys=("image", "direction"), codes=(11, 6, 3))
EXTRAS = [
    ("MiniGrid-Empty-8x8-v0", "minigrid"),
    ("MinAtar/Breakout-v1", "minatar"),
    ("VizdoomBasic-v1", "vizdoom"),
    ("LunarLander-v3", "box2d"),
]
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


@pytest.mark.packages
@pytest.mark.parametrize("name", ["MiniGrid-Empty-8x8-v0", "MiniGrid-DoorKey-5x5-v0"])
def test_minigrid_is_seen_as_its_own_one_hot_wrapper_sees_it(name: str) -> None:
    wrappers = pytest.importorskip("minigrid.wrappers")
    game, out = start(EnvConfig(name, view=SEEN), 3)
    assert game.spec.obs_shape == (24, 7, 7) and game.spec.num_actions == 7
    reference = wrappers.OneHotPartialObsWrapper(gym.make(name))
    obs, _ = reference.reset(seed=int(np.random.SeedSequence([3, 0]).generate_state(1)[0]))
    turned = set()
    for action in random_actions(60, 6):
        assert_array_equal(out[:20], 255 * obs["image"].transpose(2, 0, 1))
        assert np.flatnonzero(out[20:, 0, 0]).tolist() == [obs["direction"]]
        turned.add(int(obs["direction"]))
        ended = game.step(action, out)[1:]
        obs, _, *expected, _ = reference.step(action)
        assert ended == tuple(expected)
        if any(ended):
            break
    assert len(turned) > 1


@pytest.mark.packages
@pytest.mark.parametrize("name", GAMES)
def test_minatar_is_seen_as_its_planes(name: str) -> None:
    pytest.importorskip("minatar")
    game, out = start(EnvConfig(f"MinAtar/{name}-v1"), 2)
    channels, height, width = game.spec.obs_shape
    assert (height, width) == (10, 10) and set(np.unique(out)) == {0, 255}
    for action in random_actions(30, game.spec.num_actions):
        if any(game.step(action, out)[1:]):
            break
        state = game._env.unwrapped.game.state()  # type: ignore[attr-defined]
        assert_array_equal(out, 255 * state.transpose(2, 0, 1))
    assert channels >= 4


@pytest.mark.packages
def test_minatar_goes_on_from_a_snapshot() -> None:
    pytest.importorskip("minatar")
    config = EnvConfig("MinAtar/Breakout-v1", max_episode_steps=50)
    game, _ = start(config, 3)
    play(game, random_actions(31, 3, seed=1))
    snapshot = game.snapshot()
    other, out = start(config, 4)
    other.restore(snapshot, out)
    assert same(play(other, random_actions(90, 3)), play(game, random_actions(90, 3)))


@pytest.mark.packages
def test_vizdoom_is_seen_as_its_screen_scaled_and_goes_on_from_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    config = EnvConfig("VizdoomBasic-v1", kwargs={"frame_skip": 4}, view=View(size=(30, 45), keys=("screen",), stack=2))
    game, out = start(config, 3)
    assert game.spec.obs_shape == (2, 30, 45) and game.spec.num_actions == 4
    for action in (0, 1, 1):
        game.step(action, out)
    screen = game._env.unwrapped.state.screen_buffer  # type: ignore[attr-defined]
    assert np.abs(out[1] - area_average(cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY), (30, 45))).max() <= 1
    other, again = start(config, 4)
    other.restore(game.snapshot(), again)
    assert_array_equal(out, again)
    actions = random_actions(40, 4)
    assert same(play(other, actions), play(game, actions))
    for one in (game, other):
        one.close()
    assert not list(tmp_path.iterdir())  # neither the engine's settings nor its folder are left where it was started


@pytest.mark.parametrize(("name", "extra"), EXTRAS)
def test_a_missing_package_is_named_by_its_extra(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> Any:
        raise ImportError(module)

    monkeypatch.setattr(packages, "_known", set())
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(EnvError, match=rf"env.id is '{name}', .* pip install 'cdrl-pl\[{extra}\]'"):
        resolve(EnvConfig(name))


@pytest.mark.parametrize(("name", "states"), [("FrozenLake-v1", 16), ("CliffWalking-v1", 48)])
def test_games_whose_states_are_numbers_are_read_one_hot(name: str, states: int) -> None:
    game, out = start(EnvConfig(name))
    assert game.spec.obs_shape == (states,) and out.sum() == 1
    game.step(1, out)
    assert int(out.argmax()) == int(game._env.unwrapped.s)  # type: ignore[attr-defined]


# Wrappers


class Doubled(gym.RewardWrapper):
    """Pays ``times`` as much."""

    def __init__(self, env: gym.Env, times: float = 2.0) -> None:
        super().__init__(env)
        self.times = times

    def reward(self, reward: Any) -> float:
        return self.times * float(reward)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that has ``Doubled``."""
    monkeypatch.setattr(importlib.import_module("toy_envs"), "Doubled", Doubled, raising=False)
    return "toy_envs.Doubled"


def test_wrappers_are_put_around_from_the_inside_out_with_their_keywords(known: str) -> None:
    config = EnvConfig("CartPole-v1", wrappers=(known, {known: {"times": 5}}, "gymnasium.wrappers.FlattenObservation"))
    game, out = start(config)
    assert game.step(0, out)[0] == 10.0


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("no_such.Thing", r"env.wrappers has 'no_such.Thing', which cannot be put around .*No module named"),
        ("gymnasium.wrappers.Nothing", r"has 'gymnasium.wrappers.Nothing', which cannot be put"),
        ("Bare", r"env.wrappers has 'Bare'; it must be module.Class"),
        ({"a.B": 3}, r"it must be module.Class, or \{module.Class"),
        ({"gymnasium.wrappers.TimeLimit": {"steps": 3}}, r"unexpected keyword argument 'steps'"),
        ("builtins.str", r"'builtins.str', which makes no environment"),
    ],
)
def test_what_is_no_wrapper_is_refused_by_name(wrapper: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        make_game(EnvConfig("CartPole-v1", wrappers=(wrapper,)), 0)


def test_atari_games_take_no_wrappers() -> None:
    with pytest.raises(EnvError, match=r"env.wrappers is .*; Atari games take the named options and views instead"):
        describe(EnvConfig("Pong-2017", wrappers=("gymnasium.wrappers.FlattenObservation",)))


# Lives and FIRE


BREAKOUT = EnvConfig("ALE/Breakout-v5", frame_skip=4, repeat_action_probability=0.0)


def lives(config: EnvConfig, steps: int = 400) -> tuple[list[bool], list[int]]:
    """Of a game played without ever choosing FIRE: whether each end was of a life alone, and the lives at each end."""
    game, out = start(config)
    went_on, left = [], []
    for _ in range(steps):
        if any(game.step(0, out)[1:]):
            went_on.append(game.goes_on)
            left.append(game._ale.lives())  # type: ignore[attr-defined]
            game.reset(out)
    return went_on, left


def test_fire_begins_every_life_and_without_it_nothing_is_ever_lost() -> None:
    assert lives(BREAKOUT) == ([], [])
    went_on, left = lives(replace(BREAKOUT, fire_on_reset=True))
    assert went_on and not any(went_on) and not any(left)  # whole games, whose five lives were all played


def test_an_episode_of_training_may_end_with_each_life() -> None:
    went_on, left = lives(replace(BREAKOUT, fire_on_reset=True, episodic_life=True))
    assert went_on[:5] == [True, True, True, True, False] and left[:5] == [4, 3, 2, 1, 0]
