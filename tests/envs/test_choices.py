"""Games of several choices at once, and masks of what may be played: what agents choose from, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from choices import choices
from games import start

from cdrl_pl.envs import EnvConfig, EnvError, View, describe

NAMES = ("0:L", "0:M", "0:R", "1:N", "1:F")
WORDS = ("LN", "LF", "MN", "MF", "RN", "RF")


def test_the_actions_of_every_choice_stand_one_after_the_other() -> None:
    spec = describe(choices())
    assert (spec.action_meanings, spec.action_counts, spec.num_actions, spec.masked) == (NAMES, (3, 2), 5, True)
    one = describe(choices(masked=False, where="unchecked", joint=True))
    assert (one.action_meanings, one.action_counts, one.masked) == (WORDS, (), False)


@pytest.mark.parametrize("where", ["info", "parts", "dict"])
def test_the_mask_says_what_may_be_played_now(where: str) -> None:
    view = View(keys=("seen",)) if where == "dict" else None
    game, out = start(replace(choices(where=where), view=view), 3)
    banned = set()
    for _ in range(20):
        assert game.mask is not None and game.mask.dtype == bool
        (impossible,) = np.flatnonzero(~game.mask)
        banned.add(int(impossible))
        wanted = [int(out[:3].argmax()), int(out[3:].argmax())]
        assert impossible < 3 and impossible != wanted[0]
        reward, terminated, _ = game.step(wanted, out)
        assert reward == 1.0  # the environment's own numbers begin at 1 in the first choice
        if terminated:
            game.reset(out)
    assert banned == {0, 1, 2}


def test_a_game_goes_on_from_where_it_stood() -> None:
    game, out = start(choices(masked=False, where="unchecked"))
    for action in ([0, 1], [2, 0], [1, 1]):
        game.step(action, out)
    other, again = start(choices(masked=False, where="unchecked"))
    other.restore(game.snapshot(), again)
    assert np.array_equal(out, again)
    assert game.step([1, 0], out) == other.step([1, 0], again) and np.array_equal(out, again)


def test_the_mask_is_of_the_actions_as_they_are_picked() -> None:
    plain, _ = start(choices(joint=True))
    picked, _ = start(replace(choices(joint=True), actions=(5, 0, 0, 3)))
    assert plain.mask is not None and picked.mask is not None
    assert picked.mask.tolist() == plain.mask[[5, 0, 0, 3]].tolist()
    assert picked.spec.action_meanings == ("RF", "LN", "LN", "MF")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (choices(where="short"), r"env.action_mask is true, but \S+ gave the action_mask .*; it must be 5 numbers"),
        (choices(where="nowhere"), r"env.action_mask is true, but \S+ gave the action_mask None; it must be 5 numbers"),
        (choices(where="none"), r"Choices-v0 gave the action_mask .*, by which no action may be played"),
        (replace(choices(), actions=(1, 0)), r"env.actions is \[1, 0\], but \S+ makes several choices, MultiDiscrete"),
        (EnvConfig("Pong-2017", action_mask=True), r"env.action_mask is true, but in ALE/Pong-v5 every action may"),
        (EnvConfig("Pendulum-v1"), r"has the action space Box.*; only Discrete and MultiDiscrete can be played"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(config: EnvConfig, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        start(config)


def test_names_that_do_not_fit_the_space_are_numbers() -> None:
    spec = describe(EnvConfig("choices:Choices-v0", wrappers=("choices.Narrow",), kwargs={"where": "unchecked"}))
    assert spec.action_counts == (2, 2) and spec.action_meanings == ("0:0", "0:1", "1:0", "1:1")
