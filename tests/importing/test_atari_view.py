"""What an imported policy sees of Atari, beside what Stable-Baselines3's own wrappers show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch
from command_line import REPOSITORY
from libraries import log_probs, replayed, stacked
from torch import Tensor

from cdrl_pl.envs import EnvConfig, make_game
from cdrl_pl.importing.policy import ImportedPolicy
from cdrl_pl.importing.sample_factory import read_sample_factory
from cdrl_pl.importing.sb3 import read_sb3
from cdrl_pl.importing.task import as_its_library, checked

DATA = REPOSITORY / "tests" / "data"
PONG = DATA / "sb3" / "pong.zip"
COURSES: dict[str, tuple[Callable[[Path], ImportedPolicy], Path, Path]] = {  # a policy, and what its library saw
    "sb3": (read_sb3, PONG, DATA / "sb3" / "pong_said.npz"),
    "sample_factory": (
        read_sample_factory, DATA / "sample_factory" / "pong", DATA / "sample_factory" / "pong" / "said.npz",
    ),
}  # fmt: skip
LONGER = 80  # decisions, before a life is lost: there training goes on by another FIRE, in both


@pytest.mark.parametrize("library", COURSES)
def test_a_course_of_its_library_is_seen_and_judged_alike_but_not_by_a_wrong_import(library: str) -> None:
    """A thousand decisions that the library played and stored, over more than one game."""
    read, path, said = COURSES[library]
    policy = read(path)
    network = policy.build()
    with np.load(said) as file:
        frames, actions, wanted = file["frames"], file["actions"], torch.from_numpy(file["logits"]).log_softmax(-1)
    env, _ = as_its_library(EnvConfig("PongNoFrameskip-v4"), policy)
    ours = replayed(env, actions)
    difference = np.abs(ours.astype(int) - frames)
    assert difference.max() <= 24 and difference.mean((1, 2)).max() < 0.2

    def apart(obs: Tensor) -> float:
        """How far what it says of observations is from what the library said of its own; mean of the greatest."""
        return float((log_probs(network, obs) - wanted[: len(obs)]).abs().amax(1).mean())

    right, one_frame = apart(stacked(ours)), stacked(ours)
    one_frame[:, :3] = one_frame[:, 3:]
    assert apart(one_frame) > 3 * right
    assert env.view is not None
    for wrong in ({"crop": (34, 194)}, {"maximum": False}):
        seen = replayed(replace(env, view=replace(env.view, **wrong)), actions[:203])
        assert apart(stacked(seen)) > 3 * right


@pytest.mark.packages
@pytest.mark.parametrize("name", ["PongNoFrameskip-v4", "SeaquestNoFrameskip-v4", "BowlingNoFrameskip-v4"])
def test_it_sees_what_its_librarys_wrappers_show(name: str) -> None:
    """Grey levels differ by rounding, and by the maximum, which is taken of colours there."""
    wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers")
    policy = read_sb3(PONG)
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
        checked(EnvConfig("PongNoFrameskip-v4"), read_sb3(PONG))


@pytest.mark.slow
def test_a_short_policy_of_pong_is_proved_to_be_no_expert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cdrl_pl.cli import importing

    monkeypatch.chdir(tmp_path)
    task = "{id: PongNoFrameskip-v4, max_episode_steps: 100}"
    words = ["sb3", str(PONG), "--env", task, "--out", "pong", "--episodes", "2", "--expect", "20"]
    assert importing.main(words) == 1
    said = capsys.readouterr().err
    assert "as its library has it: env.view" in said and "env.frame_skip 4" in said and "20 was expected" in said
    assert "how it saw its game: here env.view has size 84, crop (0, 210), stack 4" in said
