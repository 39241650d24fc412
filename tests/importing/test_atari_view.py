"""What an imported policy sees of Atari, beside what Stable-Baselines3's own wrappers show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from command_line import REPOSITORY

from cdrl_pl.envs import EnvConfig, make_game
from cdrl_pl.importing.sb3 import read_sb3
from cdrl_pl.importing.task import as_its_library, checked

PICTURES = REPOSITORY / "tests" / "data" / "sb3" / "pictures.zip"
LONGER = 80  # decisions, before a life is lost: there training goes on by another FIRE, in both


@pytest.mark.packages
@pytest.mark.parametrize("name", ["PongNoFrameskip-v4", "SeaquestNoFrameskip-v4", "BowlingNoFrameskip-v4"])
def test_it_sees_what_its_librarys_wrappers_show(name: str) -> None:
    """Grey levels differ by rounding, and by the maximum, which is taken of colours there."""
    wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers")
    policy = read_sb3(PICTURES)
    env, _ = as_its_library(EnvConfig(name), policy)
    gym.register_envs(ale_py)
    theirs: Any = wrappers.AtariWrapper(gym.make(name), noop_max=0, terminal_on_life_loss=False, clip_reward=False)
    theirs.reset(seed=0)
    game = make_game(env, 0)
    out = np.zeros((4, 84, 84), np.uint8)
    game.reset(out)
    game.step(2, out)  # their reset plays actions 1 and 2, ours FIRE
    stack = [out[-1].astype(int)] * 4
    random, rewards = np.random.default_rng(0), []
    for step in range(LONGER):
        action = int(random.integers(game.spec.num_actions))
        obs, reward, *_ = theirs.step(action)
        rewards.append((reward, game.step(action, out)[0]))
        stack = [*stack[1:], obs[..., 0].astype(int)]
        difference = np.abs(np.stack(stack) - out)
        if step >= 4:
            assert difference.max() <= 24 and difference.mean() < 0.2
    assert all(one == other for one, other in rewards)


def test_a_policy_of_pictures_is_refused_without_its_stack() -> None:
    with pytest.raises(ValueError, match=r"gives \(1, 42, 42\); env.view.size \[84, 84\] makes them so large"):
        checked(EnvConfig("PongNoFrameskip-v4"), read_sb3(PICTURES))


@pytest.mark.slow
def test_an_untrained_policy_of_pong_is_proved_to_be_no_expert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cdrl_pl.cli import importing

    monkeypatch.chdir(tmp_path)
    task = "{id: PongNoFrameskip-v4, max_episode_steps: 300}"
    words = ["sb3", str(PICTURES), "--env", task, "--out", "pong", "--episodes", "4", "--expect", "20"]
    assert importing.main(words) == 1
    said = capsys.readouterr().err
    assert "as its library has it: env.view" in said and "env.frame_skip 4" in said and "20 was expected" in said
    assert "how it saw its game: here env.view has size 84, crop (0, 210), stack 4" in said
