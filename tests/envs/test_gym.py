"""Any other environment through Gymnasium, and environments that are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from command_line import REPOSITORY
from games import start
from gymnasium.envs.classic_control import CartPoleEnv
from numpy.testing import assert_array_equal
from toy_envs import COUNTING_SPEC, toy

from cdrl_pl.envs import EnvConfig, EnvError, View, check_drawn, describe, make_game, resolve

# Other environments


def test_a_vector_environment_is_read_as_it_is() -> None:
    game, out = start(toy("Counting"))
    assert game.spec == COUNTING_SPEC
    assert_array_equal(out, [1, 0, -1])
    assert game.step(2, out) == (1.5, False, False)
    assert_array_equal(out, [1, 1, 2])


def test_the_first_action_is_0_whatever_the_environment_calls_it() -> None:
    game, out = start(toy("Offset"))
    game.step(2, out)
    assert_array_equal(out, [1, 1, 7])


def test_a_step_that_ends_in_both_ways_is_terminal() -> None:
    game, out = start(toy("Offset"))
    assert game.step(0, out)[1:] == (True, False)


def test_a_time_limit_truncates() -> None:
    game, out = start(toy("Counting", max_episode_steps=2))
    assert [game.step(0, out)[1:] for _ in range(2)] == [(False, False), (False, True)]


def test_seeds_of_gym_episodes_differ_and_repeat() -> None:
    def first_observations(seed: int) -> list[list[float]]:
        game, out = start(EnvConfig("CartPole-v1"), seed)
        seen = [out.tolist()]
        for _ in range(3):
            game.reset(out)
            seen.append(out.tolist())
        return seen

    assert first_observations(0) == first_observations(0)
    assert len({tuple(o) for seed in (0, 1) for o in first_observations(seed)}) == 8


def test_images_become_grey_squares_with_channels_first() -> None:
    game, out = start(toy("Image"))
    assert (game.spec.obs_shape, game.spec.obs_dtype) == ((1, 42, 42), "uint8")
    luminance = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert np.abs(out[0, :20] - luminance).max() <= 1 and (out[0, 22:] == 0).all()


def test_keyword_arguments_reach_the_environment() -> None:
    with pytest.raises(Exception, match="code 7: the toy broke in init"):
        make_game(toy("Raising", where="init"), 0)


def test_an_id_may_name_the_module_that_registers_it() -> None:
    """In a process of its own, where nothing has imported the module."""
    code = "from cdrl_pl.envs import EnvConfig, describe; print(describe(EnvConfig('toy_envs:CountingToy-v0')))"
    paths = os.pathsep.join([str(REPOSITORY / "tests" / "support"), str(REPOSITORY)])
    env = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == str(COUNTING_SPEC), run.stderr


def test_an_atari_id_that_names_its_module_is_the_same_game() -> None:
    assert describe(EnvConfig("ale_py:ALE/Breakout-v5")) == describe(EnvConfig("ALE/Breakout-v5"))


# Refusals


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("Pong-2107", "Pong-2017"),
        ("Bowling2017", "Bowling-2017"),
        ("ALE/Pon-v5", "ALE/Pong-v5"),
        ("cartpole", "CartPole-v"),
    ],
)
def test_an_unknown_id_names_the_nearest_known(name: str, nearest: str) -> None:
    with pytest.raises(EnvError, match=f"env.id is '{name}'.*nearest known id is '{nearest}"):
        resolve(EnvConfig(name))


def test_an_unknown_id_without_a_module_is_told_of_modules() -> None:
    with pytest.raises(EnvError, match="as module:id"):
        resolve(EnvConfig("OfNobodys-v0"))


def test_a_keyword_that_a_task_does_not_take_is_named() -> None:
    with pytest.raises(EnvError, match=r"'CartPole-v1' cannot be made with env.kwargs \{'moves': 5\}: .*moves"):
        describe(EnvConfig("CartPole-v1", kwargs={"moves": 5}))


class Undrawn(CartPoleEnv):
    def __init__(self) -> None:
        super().__init__()


def test_a_task_without_a_render_mode_is_told_what_a_video_needs() -> None:
    gymnasium.register("Undrawn-v0", Undrawn)
    try:
        with pytest.raises(EnvError, match=r"cannot be drawn: .*an argument render_mode of its constructor"):
            check_drawn(EnvConfig("Undrawn-v0"))
    finally:
        del gymnasium.registry["Undrawn-v0"]


def test_a_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(EnvError, match=r"the module 'no_such_module' cannot be imported"):
        resolve(EnvConfig("no_such_module:Some-v0"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noop_max": -1}, "env.noop_max is -1"),
        ({"max_episode_steps": 0}, "env.max_episode_steps is 0"),
        ({"repeat_action_probability": 1.5}, "env.repeat_action_probability is 1.5"),
        ({"frame_skip": 0}, "env.frame_skip is 0"),
        ({"frame_skip": (4, 2)}, r"env.frame_skip is \(4, 2\)"),
        ({"kwargs": {"mode": 1}}, "env.kwargs is"),
        ({"view": View(crop=(0, 211))}, r"env.view.crop is \(0, 211\); ALE/Pong-v5 has 210 rows"),
    ],
)
def test_fault_28_an_atari_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        make_game(EnvConfig("Pong-2017", **options), 0)


@pytest.mark.parametrize(
    "options",
    [{"frame_skip": 4}, {"repeat_action_probability": 0.0}, {"full_action_space": True}, {"noop_max": 3}],
)
def test_fault_28_atari_options_are_refused_elsewhere(options: dict[str, Any]) -> None:
    with pytest.raises(EnvError, match=f"env.{next(iter(options))} is .* CartPole-v1 is not an Atari game"):
        resolve(EnvConfig("CartPole-v1", **options))


@pytest.mark.parametrize("crop", [(0, 61), (60, 70)])
def test_rows_that_an_image_does_not_have_are_refused(crop: tuple[int, int]) -> None:
    with pytest.raises(EnvError, match=rf"env.view.crop is \({crop[0]}, {crop[1]}\); toy_envs:ImageToy-v0 has 60 rows"):
        describe(replace(toy("Image"), view=View(crop=crop)))
    describe(replace(toy("Image"), view=View(crop=(0, 60))))


def test_there_is_nothing_to_crop_of_a_vector() -> None:
    with pytest.raises(EnvError, match=r"env.view.crop is \(0, 2\), but CartPole-v1 gives no images; leave it out"):
        describe(EnvConfig("CartPole-v1", view=View(crop=(0, 2))))


def test_box_actions_are_refused() -> None:
    with pytest.raises(EnvError, match=r"'Pendulum-v1' has the action space Box.*only Discrete"):
        make_game(EnvConfig("Pendulum-v1"), 0)


@pytest.mark.parametrize("shape", [(3, 60, 60), (60, 60, 4), (60, 60, 2, 3)])
def test_fault_24_images_that_are_not_channels_last_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EnvError, match="has images of shape"):
        make_game(toy("Image", shape=shape), 0)


def test_a_task_that_draws_no_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CartPoleEnv, "render", lambda self: None)
    with pytest.raises(EnvError, match=r"env.id 'CartPole-v1' draws no picture \[H, W, 3\]"):
        check_drawn(EnvConfig("CartPole-v1"))


def test_the_space_decides_how_many_actions_there_are_not_their_names() -> None:
    spec = describe(toy("Renamed"))
    assert spec.action_meanings == ("0", "1", "2", "3", "4")


def test_small_images_whose_numbers_may_be_codes_are_refused() -> None:
    with pytest.raises(EnvError, match=r"view\.size"):
        describe(toy("Image", shape=(7, 7, 3)))
    describe(toy("Image", shape=(60, 60, 3)))


def test_a_reward_of_one_number_in_an_array_is_that_number_and_more_are_refused() -> None:
    game = make_game(toy("ArrayReward"), 0)
    out = np.zeros(3, np.float32)
    game.reset(out)
    assert game.step(1, out)[0] == 1.25
    game = make_game(toy("ArrayReward", size=2), 0)
    game.reset(out)
    with pytest.raises(EnvError, match=r"gave the reward array\(\[1.25, 1.25\]\); it must be one number"):
        game.step(1, out)
