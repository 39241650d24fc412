"""Atari games: presets, options, and the game's actions permuted, duplicated or enlarged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from games import Seen, area_average, blank, play, random_actions, same, start
from numpy.testing import assert_array_equal
from toy_envs import toy

from cdrl_pl.envs import EnvConfig, EnvError, View, describe, make_game, resolve, with_noops

# Presets and options


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Pong-2017", ("ALE/Pong-v5", 4, 0.0, 100_000)),
        ("Bowling-2017", ("ALE/Bowling-v5", (2, 4), 0.25, 10_000)),
        ("ALE/Pong-v5", ("ALE/Pong-v5", 4, 0.25, 27_000)),
        ("Bowling-v0", ("Bowling-v0", (2, 4), 0.25, 54_000)),
    ],
)
def test_ids_set_what_the_paper_and_their_registration_say(name: str, settings: tuple[Any, ...]) -> None:
    config = resolve(EnvConfig(name))
    assert (config.id, config.frame_skip, config.repeat_action_probability, config.max_episode_steps) == settings
    assert config.view == View(size=42, crop=(34, 194))


def test_a_given_option_wins_over_the_preset() -> None:
    config = resolve(EnvConfig("Bowling-2017", frame_skip=5, repeat_action_probability=0.0, max_episode_steps=9))
    assert (config.frame_skip, config.repeat_action_probability, config.max_episode_steps) == (5, 0.0, 9)


@pytest.mark.parametrize("name", ["Pong-2017", "Bowling-v0", "CartPole-v1"])
def test_resolving_twice_changes_nothing(name: str) -> None:
    config = resolve(EnvConfig(name))
    assert resolve(config) == config


def test_policies_are_scored_from_random_starts_where_there_are_no_ops() -> None:
    assert with_noops(EnvConfig("Pong-2017", noop_max=3), 30) == replace(resolve(EnvConfig("Pong-2017")), noop_max=30)
    assert with_noops(EnvConfig("CartPole-v1"), 30) == resolve(EnvConfig("CartPole-v1"))


def frames_per_decision(name: str, decisions: int) -> set[int]:
    game, _ = start(EnvConfig(name))
    counts = [0]
    for _ in range(decisions):
        play(game, [0])
        counts.append(game._ale.getEpisodeFrameNumber())  # type: ignore[attr-defined]
    return set(np.diff(counts).tolist())


@pytest.mark.parametrize(
    ("name", "skips"), [("Pong-2017", {4}), ("Bowling-2017", {2, 3, 4}), ("Bowling-v0", {2, 3, 4})]
)
def test_the_emulator_plays_as_many_frames_per_decision(name: str, skips: set[int]) -> None:
    assert frames_per_decision(name, 60) == skips


@pytest.mark.parametrize(("name", "sticky"), [("Pong-2017", 0.0), ("Bowling-2017", 0.25), ("ALE/Pong-v5", 0.25)])
def test_the_emulator_repeats_actions_as_often(name: str, sticky: float) -> None:
    game = make_game(EnvConfig(name), 0)
    assert game._ale.getFloat("repeat_action_probability") == sticky  # type: ignore[attr-defined]


def test_the_emulator_runs_through_the_paths_of_its_seed() -> None:
    """Same seed, same game; another seed, another game, unless nothing is drawn (Pong-2017)."""
    actions = random_actions(150, 6)

    def seen(name: str, seed: int) -> list[Seen]:
        return play(start(EnvConfig(name), seed)[0], actions)

    assert same(seen("Bowling-2017", 1), seen("Bowling-2017", 1))
    assert not same(seen("Bowling-2017", 1), seen("Bowling-2017", 2))
    assert same(seen("Pong-2017", 1), seen("Pong-2017", 2))


def test_the_atari_game_plays_as_its_own_environment_does() -> None:
    """Independent replay through Gymnasium: rewards, ends, and the screen cropped, grey and resized."""
    game, _ = start(EnvConfig("Pong-2017"))
    reference = gym.make("ALE/Pong-v5", frameskip=4, repeat_action_probability=0.0, obs_type="grayscale")
    reference.reset(seed=0)
    points = 0.0
    for t, action in enumerate(random_actions(300, 6)):
        out = blank(game)
        reward, terminated, truncated = game.step(action, out)
        screen, expected_reward, expected_terminated, _, _ = reference.step(action)
        assert (reward, terminated, truncated) == (expected_reward, expected_terminated, False)
        points += abs(reward)
        if t % 50 == 49:
            assert np.abs(out[0] - area_average(screen[34:194], (42, 42))).max() <= 0.501
    assert points > 3  # the ball was played


def test_episodes_of_atari_are_truncated_at_their_limit() -> None:
    game, _ = start(EnvConfig("Pong-2017", max_episode_steps=3))
    assert [seen[1:] for seen in play(game, [0] * 3)] == [(0, False, False)] * 2 + [(0, False, True), (0, False, False)]
    assert [seen[3] for seen in play(game, [0] * 3)] == [False, False, True, False]


def test_no_ops_start_each_episode_differently_but_within_their_limit() -> None:
    game, out = start(EnvConfig("Pong-2017", noop_max=5))
    frames = []
    for _ in range(40):
        game.reset(out)
        frames.append(game._ale.getEpisodeFrameNumber())  # type: ignore[attr-defined]
    assert set(frames) == set(range(6))


@pytest.mark.parametrize(
    ("name", "meanings"),
    [
        ("Pong-2017", "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"),
        ("Bowling-2017", "NOOP FIRE UP DOWN UPFIRE DOWNFIRE"),
        ("ALE/Breakout-v5", "NOOP FIRE RIGHT LEFT"),
        ("ALE/Freeway-v5", "NOOP UP DOWN"),
    ],
)
def test_actions_are_the_games_minimal_set(name: str, meanings: str) -> None:
    spec = describe(EnvConfig(name))
    assert " ".join(spec.action_meanings) == meanings and spec.num_actions == len(meanings.split())
    assert (spec.obs_shape, spec.obs_dtype) == ((1, 42, 42), "uint8")


def test_all_actions_on_request() -> None:
    assert describe(EnvConfig("Pong-2017", full_action_space=True)).num_actions == 18


def test_image_size_and_crop_are_used() -> None:
    _, out = start(EnvConfig("Pong-2017", view=View(84)))
    _, cropped = start(EnvConfig("Pong-2017", view=View(84, (0, 210))))
    assert out.shape == (1, 84, 84) and (out != cropped).any()


def test_no_crop_given_is_the_papers_and_all_rows_can_be_kept() -> None:
    """Null is 34..194 for Atari, and all rows elsewhere; [0, 210] keeps a whole screen."""
    _, paper = start(EnvConfig("Pong-2017"))
    _, given = start(EnvConfig("Pong-2017", view=View(crop=(34, 194))))
    game, whole = start(EnvConfig("Pong-2017", view=View(crop=(0, 210))))
    assert_array_equal(paper, given)
    screen = game._shown[0].pixels  # type: ignore[attr-defined]
    assert len(screen) == 210 and np.abs(whole[0] - area_average(screen, (42, 42))).max() <= 0.501
    assert resolve(toy("Image")).view == View()


# The game's actions permuted, duplicated, enlarged


@pytest.mark.parametrize("name", ["Pong-2017", "Bowling-2017", "CartPole-v1", "toy_envs:OffsetToy-v0"])
@pytest.mark.parametrize("double", [False, True])
def test_an_action_plays_the_games_own_that_it_names(name: str, double: bool) -> None:
    """The relabelled game, played with new indices, is the game played with its own, bit for bit."""
    count = describe(EnvConfig(name)).num_actions
    chosen = (*range(1, count), 0, *([1, 1] if double else []))
    relabelled, out = start(EnvConfig(name, actions=chosen, noop_max=5 if "2017" in name else 0), 7)
    plain, expected = start(EnvConfig(name, noop_max=5 if "2017" in name else 0), 7)
    assert_array_equal(out, expected)
    played = random_actions(150, len(chosen))
    assert same(play(relabelled, played), play(plain, [chosen[a] for a in played]))


def test_the_meanings_follow_the_actions() -> None:
    assert describe(EnvConfig("ALE/Freeway-v5", actions=(2, 2, 0))).action_meanings == ("DOWN", "DOWN", "NOOP")
    assert describe(EnvConfig("CartPole-v1", actions=(1, 0, 1))).action_meanings == ("1", "0", "1")


def test_the_indices_are_of_the_chosen_action_set() -> None:
    env = EnvConfig("ALE/Freeway-v5", actions=(17, 1), full_action_space=True)
    assert describe(env).action_meanings == ("DOWNLEFTFIRE", "FIRE")


def test_a_relabelled_game_goes_on_from_its_snapshot() -> None:
    config = EnvConfig("CartPole-v1", actions=(1, 0, 1), max_episode_steps=20)
    game, _ = start(config, 3)
    play(game, random_actions(31, 3, seed=1))
    snapshot = game.snapshot()
    other, out = start(config, 4)
    other.restore(snapshot, out)
    assert same(play(other, random_actions(90, 3)), play(game, random_actions(90, 3)))


@pytest.mark.parametrize(
    ("name", "actions", "message"),
    [
        ("CartPole-v1", (), r"env.actions is \(\); it must be a list of indices"),
        ("CartPole-v1", (0, -1), r"env.actions is \(0, -1\); it must be a list of indices"),
        ("CartPole-v1", (0, 2), r"env.actions is \[0, 2\]; CartPole-v1 has the actions 0 to 1"),
        ("Pong-2017", (6,), r"env.actions is \[6\]; ALE/Pong-v5 has the actions 0 to 5"),
    ],
)
def test_fault_28_actions_that_the_game_does_not_have_are_refused(
    name: str, actions: tuple[int, ...], message: str
) -> None:
    with pytest.raises(EnvError, match=message):
        make_game(EnvConfig(name, actions=actions), 0)


def test_render_gives_the_colour_screen() -> None:
    game, _ = start(EnvConfig("Pong-2017"))
    assert (game.render().shape, game.render().dtype) == ((210, 160, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "capped"), [("Pong-v4", True), ("PongNoFrameskip-v4", False), ("Bowling-2017", False)]
)
def test_a_limit_in_frames_is_counted_in_frames_where_the_skip_is_drawn(name: str, capped: bool) -> None:
    game = make_game(EnvConfig(name), 0)
    assert (game._frame_cap == 108_000) == capped  # type: ignore[attr-defined]
    if capped:
        out = np.zeros(game.spec.obs_shape, np.uint8)
        game.reset(out)
        game._frame_cap = 60  # type: ignore[attr-defined]
        steps = [game.step(0, out) for _ in range(30)]
        last = [truncated for _, _, truncated in steps].index(True)
        assert 60 / 4 - 1 <= last <= 60 / 2 and not any(terminated for _, terminated, _ in steps)
