"""Views: what they make of screens and of Gymnasium's spaces, each against an independent reference."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from games import area_average, random_actions, start
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TimeLimit
from numpy.testing import assert_array_equal
from toy_envs import toy

from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig, EnvError, View, describe, make_game
from cdrl_pl.envs.pictures import picture
from cdrl_pl.envs.spaces import reading
from cdrl_pl.envs.view import Observer

# Screens

NATURE = View(84, (0, 210), maximum=True, stack=4)


class Frames:
    """Pong frame by frame through Gymnasium: what the field's wrappers take their observations from."""

    def __init__(self, kind: str = "grayscale") -> None:
        self.env = gym.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0, obs_type=kind)
        self.first = self.env.reset(seed=0)[0]

    def decide(self, action: int) -> list[np.ndarray]:
        return [self.env.step(action)[0] for _ in range(4)]


def test_the_fields_usual_view_is_as_its_wrappers_make_it() -> None:
    """84 x 84, the maximum of the last two frames, the last four observations: an independent replay."""
    game, out = start(EnvConfig("Pong-2017", view=NATURE))
    frames = Frames()
    assert game.spec.obs_shape == (4, 84, 84)
    last = [area_average(frames.first, (84, 84))] * 4
    assert np.abs(out - last).max() <= 0.501
    flickered = False
    for action in random_actions(60, 6):
        game.step(action, out)
        *_, before, after = frames.decide(action)
        last = [*last[1:], area_average(np.maximum(before, after), (84, 84))]
        assert np.abs(out - last).max() <= 0.501
        flickered |= bool((np.maximum(before, after) != after).any())
    assert flickered  # where both frames were alike, nothing would have been tested


def test_colours_are_kept_as_three_channels() -> None:
    game, out = start(EnvConfig("Pong-2017", view=View(42, colour=True)))
    frames = Frames("rgb")
    assert game.spec.obs_shape == (3, 42, 42)
    for action in random_actions(20, 6):
        game.step(action, out)
        screen = frames.decide(action)[-1]
    expected = [area_average(screen[34:194, :, channel], (42, 42)) for channel in range(3)]
    assert np.abs(out - expected).max() <= 0.501
    assert (out[0] != out[1]).any()


def test_a_screen_can_keep_its_own_size() -> None:
    game, out = start(EnvConfig("Pong-2017", view=View(None, (0, 210))))
    assert_array_equal(out[0], game._shown[0].pixels)  # type: ignore[attr-defined]
    assert describe(EnvConfig("Pong-2017", view=View((80, 40)))).obs_shape == (1, 80, 40)


VIEWS = (View(), NATURE, View(42, colour=True), View(21, (0, 210), stack=2))


@pytest.mark.parametrize("name", ["Bowling-2017", "toy_envs:ImageToy-v0"])
def test_a_game_seen_through_several_views_is_seen_as_through_each_alone(name: str) -> None:
    """Through ends of episodes, and into another game from a snapshot."""
    atari = name == "Bowling-2017"
    views = VIEWS if atari else (View(), View(30, colour=True), View(21, (0, 40), stack=2))
    configs = [EnvConfig(name, view=view, max_episode_steps=25 if atari else None) for view in views]
    resolved = [make_game(config, 7).config.view for config in configs]  # type: ignore[attr-defined]
    alone = [start(config, 7) for config in configs]
    game = make_game(configs[0], 7, resolved[1:])
    outs = [np.zeros_like(out) for _, out in alone]
    game.reset(*outs)
    for count, action in enumerate(random_actions(80, 3)):
        ended = game.step(action, *outs)[1:]
        for (single, out), seen in zip(alone, outs, strict=True):
            assert single.step(action, out)[1:] == ended
            assert_array_equal(out, seen)
        if any(ended):
            game.reset(*outs)
            for (single, out), seen in zip(alone, outs, strict=True):
                single.reset(out)
                assert_array_equal(out, seen)
        if count == 40 and atari:  # the toy counts its episodes by itself
            snapshot, game = game.snapshot(), make_game(configs[0], 8, resolved[1:])
            game.restore(snapshot, *[np.zeros_like(out) for out in outs])


def test_stacks_are_as_gymnasium_stacks_them() -> None:
    game, out = start(EnvConfig("CartPole-v1", view=View(stack=3), max_episode_steps=9), 5)
    reference = FrameStackObservation(TimeLimit(gym.make("CartPole-v1").unwrapped, 9), 3, padding_type="reset")
    entropy = np.random.SeedSequence([5, 0]).generate_state(1)[0]
    expected, _ = reference.reset(seed=int(entropy))
    assert game.spec.obs_shape == (12,)
    assert_array_equal(out, expected.reshape(-1))
    for action in (0, 1, 1, 0):
        game.step(action, out)
        assert_array_equal(out, reference.step(action)[0].reshape(-1))


# Spaces


def read(space: Any, obs: Any, **view: Any) -> np.ndarray:
    made = reading(View(**view), space, "Some-v0")
    out = np.full(made.shape, 77, made.dtype)
    made.write(obs, out)
    return out


def test_discrete_observations_are_one_hot() -> None:
    assert read(spaces.Discrete(4), 2).tolist() == [0, 0, 1, 0]
    assert read(spaces.Discrete(4, start=5), np.int64(8)).tolist() == [0, 0, 0, 1]
    assert read(spaces.MultiDiscrete([3, 2]), np.array([2, 0])).tolist() == [0, 0, 1, 1, 0]
    assert read(spaces.MultiDiscrete([3, 2], start=[1, 7]), np.array([1, 8])).tolist() == [1, 0, 0, 0, 1]
    assert read(spaces.MultiBinary(3), np.array([1, 0, 1])).tolist() == [1, 0, 1]


def test_planes_of_yes_and_no_are_neither_greyed_nor_resized() -> None:
    space = spaces.Box(0, 1, (10, 10, 6), bool)
    obs = np.random.default_rng(0).random((10, 10, 6)) < 0.3
    out = read(space, obs)
    assert (out.shape, out.dtype) == ((6, 10, 10), np.uint8)
    for channel in range(6):
        assert_array_equal(out[channel], np.where(obs[..., channel], 255, 0))
    assert read(spaces.Box(0, 1, (4, 5), bool), np.ones((4, 5), bool)).shape == (1, 4, 5)


CODES = (11, 6, 3)
GRID = spaces.Box(0, 255, (7, 7, 3), np.uint8)


def grid(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(count, size=(7, 7)) for count in CODES], -1).astype(np.uint8)


def test_codes_become_one_plane_each() -> None:
    out, obs = read(GRID, grid(), codes=CODES), grid()
    assert out.shape == (20, 7, 7)
    for row, column in np.ndindex(7, 7):
        object_, colour, state = obs[row, column]
        assert np.flatnonzero(out[:, row, column]).tolist() == [object_, 11 + colour, 17 + state]
    assert set(np.unique(out)) == {0, 255}


def test_codes_become_one_plane_a_channel_from_0_to_255() -> None:
    out, obs = read(GRID, grid(), codes=CODES, one_hot=False), grid()
    for channel, count in enumerate(CODES):
        assert np.abs(out[channel] - 255.0 * obs[..., channel].astype(float) / (count - 1)).max() <= 0.5


def test_a_code_that_there_is_not_is_refused() -> None:
    obs = grid()
    obs[3, 4, 1] = 6
    with pytest.raises(EnvError, match=r"Some-v0 gave the code 6 in channel 1; env.view.codes is \[11, 6, 3\]"):
        read(GRID, obs, codes=CODES)


DICT = spaces.Dict(
    {
        "image": GRID,
        "direction": spaces.Discrete(4),
        "speed": spaces.Box(-1, 1, (2,), np.float32),
        "mission": spaces.Text(9),
    }
)


def test_keys_are_joined_in_the_order_that_is_asked_for() -> None:
    obs = {"image": grid(), "direction": 2, "speed": np.array([0.5, -0.5]), "mission": "go"}
    assert read(DICT, obs, keys=("speed", "direction")).tolist() == [0.5, -0.5, 0, 0, 1, 0]
    assert read(DICT, obs, keys=("direction", "speed")).tolist() == [0, 0, 1, 0, 0.5, -0.5]
    assert_array_equal(read(DICT, obs, keys=("image",), codes=CODES), read(GRID, grid(), codes=CODES))


def test_numbers_beside_a_grid_become_a_plane_each() -> None:
    out = read(DICT, {"image": grid(), "direction": 2}, keys=("image", "direction"), codes=CODES)
    assert_array_equal(out[:20], read(GRID, grid(), codes=CODES))
    assert out[20:].reshape(4, 49).tolist() == [[0] * 49, [0] * 49, [255] * 49, [0] * 49]


def test_a_tuples_parts_have_their_indices_as_keys() -> None:
    space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)])
    assert read(space, (2, 0), keys=("1", "0")).tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("space", "view", "message"),
    [
        (DICT, {}, r"env.view.keys must name some of direction, image, mission, speed, but is not given"),
        (DICT, {"keys": ("sped",)}, r"must name some of direction, .*, but is \['sped'\]"),
        (DICT, {"keys": ("mission",)}, r"has the observation space Text.*; only Box, Discrete, .* can be read"),
        (DICT, {"keys": ("image", "speed"), "codes": CODES}, r"env.view.keys has 'speed', whose numbers"),
        (DICT, {"keys": ("direction",), "codes": CODES}, r"env.view.codes is .*gives no grids of whole numbers"),
        (GRID, {}, r"env.view.size is 42, but Some-v0 shows 7 x 7 pixels, which are not enlarged; .* name view.codes"),
        (GRID, {"codes": (11, 6)}, r"env.view.codes is \[11, 6\]; .* it must have 3 numbers"),
        (GRID, {"size": None, "keys": ("image",)}, r"env.view.keys is .*, but Some-v0 gives no Dict observations"),
        (spaces.Discrete(3), {"colour": True}, r"env.view.colour is True, but Some-v0 gives no images in colour"),
        (spaces.Discrete(3), {"maximum": True}, r"env.view.maximum is True, but Some-v0 gives no frames between"),
        (spaces.Sequence(spaces.Discrete(2)), {}, r"has the observation space Sequence"),
    ],
)
def test_what_a_view_cannot_make_is_refused_by_name(space: Any, view: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        reading(View(**view), space, "Some-v0")


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"size": 0}, "env.view.size is 0; it must be 1 to 1024"),
        ({"size": (84, 0)}, "env.view.size is"),
        ({"crop": (194, 34)}, "env.view.crop is"),
        ({"stack": 0}, "env.view.stack is 0; it must be from 1 to 100"),
        ({"keys": ("a", "a")}, "env.view.keys is"),
        ({"codes": (1,)}, "env.view.codes is"),
        ({"one_hot": False}, "env.view.one_hot is False; it must be true where there are no codes"),
    ],
)
def test_a_view_out_of_range_is_refused(view: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        View(**view)


def test_screens_have_neither_keys_nor_codes() -> None:
    with pytest.raises(EnvError, match=r"env.view.keys is \['screen'\], but ALE/Pong-v5 shows a screen; leave it out"):
        describe(EnvConfig("Pong-2017", view=View(keys=("screen",))))


def test_a_dict_environment_is_played_through_its_keys() -> None:
    with pytest.raises(EnvError, match=r"'toy_envs:DictToy-v0' has the observation space Dict.*keys must name some of"):
        make_game(toy("Dict"), 0)


def test_an_observer_of_one_frame_remembers_nothing() -> None:
    """The plain path: no copy of what is seen."""
    assert Observer(View(), picture(View(), "Some-v0", 60, 60)).memory is None
