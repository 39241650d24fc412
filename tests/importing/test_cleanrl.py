"""Policies of CleanRL: networks of its scripts' layers, read by other means; and a file that a script wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import REPOSITORY
from torch import Tensor

from cdrl_pl.importing.archive import ImportedFileError
from cdrl_pl.importing.cleanrl import read_cleanrl
from cdrl_pl.importing.policy import ImportedPolicy

DATA = REPOSITORY / "tests" / "data" / "cleanrl"
Tensors = dict[str, Tensor]


def randomly(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.2
        state[f"{name}.bias"] = torch.randn(shape[:1], generator=generator)
    return state


def read(folder: Path, state: Tensors) -> ImportedPolicy:
    torch.save(state, folder / "x.cleanrl_model")
    return read_cleanrl(folder / "x.cleanrl_model")


def heard(policy: ImportedPolicy, obs: Tensor) -> tuple[Tensor, Tensor]:
    network = policy.build()
    logits, values, _ = network.act(obs, network.initial_state(len(obs)), torch.ones(len(obs), dtype=torch.bool))
    return logits, values


def pair(state: Tensors, name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_file_that_its_script_wrote_says_what_the_script_said() -> None:
    """dqn.py, CartPole-v1, 30,000 decisions; what it said of 1,000 observations is stored beside it."""
    policy = read_cleanrl(DATA / "dqn.cleanrl_model")
    obs = np.random.default_rng(0).normal(0.0, (1.0, 1.0, 0.1, 1.0), (1000, 4)).astype(np.float32)
    with np.load(DATA / "dqn_said.npz") as said:
        np.testing.assert_allclose(heard(policy, torch.from_numpy(obs))[0], said["q"], atol=1e-5, rtol=1e-5)
    assert policy.is_q and policy.origin["algorithm"] == "dqn" and policy.network.hidden == (120, 84)


CONVOLUTIONS = {"network.0": (4, 3, 8, 8), "network.2": (6, 4, 4, 4), "network.4": (5, 6, 3, 3)}


def features(state: Tensors, obs: Tensor) -> Tensor:
    x = obs / 255
    for name, stride in (("network.0", 4), ("network.2", 2), ("network.4", 1)):
        x = F.relu(F.conv2d(x, *pair(state, name), stride=stride))
    return F.relu(F.linear(x.flatten(1), *pair(state, "network.7")))


def test_dqn_atari(tmp_path: Path) -> None:
    shapes = {**CONVOLUTIONS, "network.7": (9, 5 * 49), "network.9": (3, 9)}
    state = randomly(**shapes)
    policy, obs = read(tmp_path, state), torch.randint(0, 256, (4, 3, 84, 84), dtype=torch.uint8)
    close(heard(policy, obs)[0], F.linear(features(state, obs), *pair(state, "network.9")))
    assert policy.is_q and policy.origin["algorithm"] == "dqn_atari" and policy.obs_shape == (3, 84, 84)


def test_ppo_atari(tmp_path: Path) -> None:
    state = randomly(**CONVOLUTIONS, **{"network.7": (9, 5 * 49), "actor": (3, 9), "critic": (1, 9)})
    policy, obs = read(tmp_path, state), torch.randint(0, 256, (4, 3, 84, 84), dtype=torch.uint8)
    logits, values = heard(policy, obs)
    close(logits, F.linear(features(state, obs), *pair(state, "actor")))
    close(values, F.linear(features(state, obs), *pair(state, "critic")).squeeze(-1))
    assert not policy.is_q and policy.origin["algorithm"] == "ppo_atari"


def test_ppo(tmp_path: Path) -> None:
    shapes = {f"{part}.{i}": shape for part, last in (("actor", 3), ("critic", 1))
              for i, shape in ((0, (8, 5)), (2, (8, 8)), (4, (last, 8)))}  # fmt: skip
    state = randomly(**shapes)
    policy, obs = read(tmp_path, state), torch.randn(6, 5)
    logits, values = heard(policy, obs)
    close(logits, two_layers(state, "actor", obs))
    close(values, two_layers(state, "critic", obs).squeeze(-1))
    assert policy.network.value == "own" and not policy.is_q and policy.origin["algorithm"] == "ppo"


def two_layers(state: Tensors, part: str, obs: Tensor) -> Tensor:
    x = torch.tanh(F.linear(torch.tanh(F.linear(obs, *pair(state, f"{part}.0"))), *pair(state, f"{part}.2")))
    return F.linear(x, *pair(state, f"{part}.4"))


def qdagger() -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 2
    for stage, maps in enumerate((16, 32, 32)):
        shapes[f"network.{stage}.conv"] = (maps, channels, 3, 3)
        for block in range(2):
            for part in range(2):
                shapes[f"network.{stage}.res_block{block}.conv{part}"] = (maps, maps, 3, 3)
        channels = maps
    return randomly(**shapes, **{"network.5": (7, 32 * 121), "network.7": (3, 7)})


def test_qdagger(tmp_path: Path) -> None:
    state, obs = qdagger(), torch.randint(0, 256, (2, 2, 84, 84), dtype=torch.uint8)
    policy = read(tmp_path, state)
    x = obs / 255
    for stage in range(3):
        x = F.max_pool2d(F.conv2d(x, *pair(state, f"network.{stage}.conv"), padding=1), 3, 2, 1)
        for block in range(2):
            y = x
            for part in range(2):
                y = F.conv2d(F.relu(y), *pair(state, f"network.{stage}.res_block{block}.conv{part}"), padding=1)
            x = x + y
    x = F.relu(F.linear(F.relu(x.flatten(1)), *pair(state, "network.5")))
    torch.testing.assert_close(heard(policy, obs)[0], F.linear(x, *pair(state, "network.7")), atol=1e-2, rtol=1e-4)
    assert policy.origin["algorithm"] == "qdagger_dqn_atari_impalacnn" and policy.obs_shape == (2, 84, 84)


def recurrent(state: Tensors) -> None:
    state["lstm.weight_ih_l0"] = torch.zeros(1)


def continuous(state: Tensors) -> None:
    state["actor_logstd"] = torch.zeros(1)


def unlike(state: Tensors) -> None:
    state["critic.0.weight"] = torch.zeros(4, 5)


def other(state: Tensors) -> None:
    del state["critic.0.weight"], state["critic.0.bias"], state["critic.2.weight"], state["critic.2.bias"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (recurrent, "'lstm.weight_ih_l0', of ppo_atari_lstm"),
        (continuous, "actor_logstd, of continuous actions"),
        (unlike, "actor and critic have layers of unlike widths"),
        (other, "tensors of no script that is known"),
    ],
)
def test_a_network_of_another_script_is_refused(tmp_path: Path, change: Callable[[Tensors], None], said: str) -> None:
    state = randomly(**{"actor.0": (8, 5), "actor.2": (3, 8), "critic.0": (8, 5), "critic.2": (1, 8)})
    change(state)
    with pytest.raises(ImportedFileError, match=said):
        read(tmp_path, state)


def test_a_stage_that_is_missing_is_named(tmp_path: Path) -> None:
    state = qdagger()
    del state["network.1.res_block0.conv1.bias"]
    with pytest.raises(ImportedFileError, match=r"it has no network.1.res_block0.conv1"):
        read(tmp_path, state)
