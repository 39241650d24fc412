"""Policies of Stable-Baselines3: files that the library wrote, against what its own policies said of observations."""

from __future__ import annotations

import importlib
import json
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import REPOSITORY
from libraries import plays_otherwise, stacked
from torch import Tensor, nn

from cdrl_pl.cli.importing import _with_statistics as with_statistics
from cdrl_pl.importing.archive import ImportedFileError
from cdrl_pl.importing.policy import ImportedPolicy
from cdrl_pl.importing.sb3 import read_sb3
from cdrl_pl.networks import PolicyNetwork

DATA = REPOSITORY / "tests" / "data" / "sb3"
ON_POLICY = "PPO, A2C or MaskablePPO"
ALGORITHM = {
    "ppo": ON_POLICY, "a2c": ON_POLICY, "masked": ON_POLICY, "normalised": ON_POLICY, "dqn": "DQN", "qrdqn": "QR-DQN",
    "recurrent": "RecurrentPPO", "lander_a2c": ON_POLICY, "lander_dqn": "DQN", "lander_recurrent": "RecurrentPPO",
    "pong": ON_POLICY,
}  # fmt: skip
NORMALISED = ("normalised", "lander_a2c", "lander_recurrent")


def observations(name: str) -> Tensor:
    """As tests/data/sb3/make.py has them."""
    if name == "pong":
        return stacked(said(name)["frames"].numpy())
    lander = (0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 1.0, 1.0)
    scale = lander if name.startswith("lander") else (1.0, 1.0, 0.1, 1.0)
    return torch.from_numpy(np.random.default_rng(0).normal(0.0, scale, (1000, len(scale))).astype(np.float32))


def said(name: str) -> dict[str, Tensor]:
    with np.load(DATA / f"{name}_said.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def imported(name: str) -> ImportedPolicy:
    policy = read_sb3(DATA / f"{name}.zip")
    return with_statistics(policy, str(DATA / f"{name}_statistics.npz")) if name in NORMALISED else policy


def heard(network: PolicyNetwork, obs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and values of one game that does not end."""
    none = torch.zeros(len(obs), 1, dtype=torch.bool)
    output = network(obs[:, None], network.initial_state(1), none)
    return output.logits[:, 0], output.values[:, 0]


@pytest.mark.parametrize("name", ALGORITHM)
def test_what_it_says_is_what_the_library_said(name: str) -> None:
    policy, theirs = imported(name), said(name)
    logits, values = heard(policy.build(), observations(name))
    assert len(logits) == 1000
    if not policy.is_q:  # those of a distribution are known up to a constant
        logits, theirs["logits"] = logits.log_softmax(-1), theirs["logits"].log_softmax(-1)
    torch.testing.assert_close(logits, theirs["logits"], atol=1e-5, rtol=1e-5)
    if "value_head.weight" in policy.weights:
        torch.testing.assert_close(values, theirs["values"], atol=1e-4, rtol=1e-5)
    else:
        assert not values.any()
    assert (policy.origin["algorithm"], policy.origin["version"]) == (ALGORITHM[name], "2.9.2")
    assert policy.env_steps is not None and policy.env_steps >= 200


def test_values_go_along_where_there_is_a_place_for_them() -> None:
    with_values = {name for name in ALGORITHM if "value_head.weight" in read_sb3(DATA / f"{name}.zip").weights}
    assert with_values == {"ppo", "a2c", "masked", "normalised", "lander_a2c", "pong"}


@pytest.mark.parametrize("name", NORMALISED)
def test_without_its_statistics_a_normalised_policy_says_something_else(name: str) -> None:
    logits, _ = heard(read_sb3(DATA / f"{name}.zip").build(), observations(name))
    assert (logits.log_softmax(-1) - said(name)["logits"]).abs().max() > 0.1


def task(name: str) -> str:
    return "LunarLander-v3" if name.startswith("lander") else "CartPole-v1"


@pytest.mark.slow
@pytest.mark.packages
@pytest.mark.parametrize("name", [name for name in ALGORITHM if name != "pong"])
def test_it_plays_as_it_does_in_its_library(name: str) -> None:
    """(The short model of Pong loses every point in either; what it sees is compared in test_atari_view.)"""
    assert not plays_otherwise(imported(name).build(), task(name), said(name)["returns"].numpy())


@pytest.mark.slow
@pytest.mark.packages
@pytest.mark.parametrize("name", NORMALISED)
def test_without_its_statistics_it_does_not(name: str) -> None:
    policy = read_sb3(DATA / f"{name}.zip")
    assert plays_otherwise(policy.build(), task(name), said(name)["returns"].numpy())


def test_a_score_is_found_beside_the_file(tmp_path: Path) -> None:
    path = Path(shutil.copy(DATA / "ppo.zip", tmp_path))
    assert read_sb3(path).score is None
    (tmp_path / "results.json").write_text('{"mean_reward": 487.5, "std_reward": 3.0}')
    assert read_sb3(path).score == 487.5
    (tmp_path / "results.json").write_text('{"mean_reward": "high"}')
    assert read_sb3(path).score is None


# Files that are changed

Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def changed(folder: Path, name: str, change: Change) -> Path:
    """A file of the library's with other tensors, or other plain values."""
    with zipfile.ZipFile(DATA / f"{name}.zip") as file:
        members = {member: file.read(member) for member in file.namelist()}
    state, data = torch.load(BytesIO(members["policy.pth"])), json.loads(members["data"])
    change(state, data)
    content = BytesIO()
    torch.save(state, content)
    with zipfile.ZipFile(path := folder / "changed.zip", "w") as file:
        for member, whole in {**members, "policy.pth": content.getvalue(), "data": json.dumps(data)}.items():
            file.writestr(member, whole)
    return path


def no_action(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith("action_net")]:
        del state[name]


def continuous(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    state["log_std"] = torch.zeros(2)


def not_finite(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    state["action_net.bias"][0] = torch.nan


def gelu(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    data["policy_kwargs"]["activation_fn"] = "<class 'torch.nn.modules.activation.GELU'>"


def wrong_quantiles(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    data["policy_kwargs"]["n_quantiles"] = 7


def huge_quantiles(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    data["policy_kwargs"]["n_quantiles"] = "many"


def missing_layer(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    del state["mlp_extractor.policy_net.2.bias"]


def deep_memory(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    state["lstm_actor.weight_ih_l1"] = torch.zeros(1)


def odd_pictures(state: dict[str, Tensor], data: dict[str, Any]) -> None:
    state["features_extractor.linear.0.weight"] = torch.zeros(32, 3000)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("ppo", no_action, "tensors of no policy that is known"),
        ("ppo", continuous, "log_std, of continuous actions"),
        ("ppo", not_finite, "action_net.bias is not finite"),
        ("a2c", gelu, "activation_fn is .*GELU.*open are Tanh, ReLU, ELU"),
        ("qrdqn", wrong_quantiles, "gives 20 numbers, which are not 7 quantiles"),
        ("qrdqn", huge_quantiles, "n_quantiles is 'many'; it must be 1 or more"),
        ("ppo", missing_layer, "policy_net.2 has no bias"),
        ("recurrent", deep_memory, r"several layers \(n_lstm_layers\); open is one"),
        ("pong", odd_pictures, "reads 3000 features, as of no square picture"),
    ],
)
def test_a_policy_of_another_kind_is_refused(tmp_path: Path, name: str, change: Change, said: str) -> None:
    with pytest.raises(ImportedFileError, match=said):
        read_sb3(changed(tmp_path, name, change))


# Against the library itself, where it is installed


def of_the_library(name: str) -> Any:
    sb3, contrib = pytest.importorskip("stable_baselines3"), pytest.importorskip("sb3_contrib")
    spaces, env = importlib.import_module("gymnasium.spaces"), importlib.import_module("gymnasium.core").Env

    class Game(env):  # type: ignore[misc]
        metadata: dict[str, Any] = {}
        action_space = spaces.Discrete(5)

        def __init__(self, shape: tuple[int, ...]) -> None:
            pictures = len(shape) == 3
            self.observation_space = (
                spaces.Box(0, 255, shape, np.uint8) if pictures else spaces.Box(-1.0, 1.0, shape, np.float32)
            )

        def reset(self, **options: Any) -> Any:
            return np.zeros(self.observation_space.shape, self.observation_space.dtype), {}

        def step(self, action: Any) -> Any:
            return self.reset()[0], 0.0, False, False, {}

    small = {"buffer_size": 100}
    picture, vector = Game((3, 60, 60)), Game((7,))
    relu = {"net_arch": [24, 12], "activation_fn": nn.ReLU}
    apart = {"net_arch": {"pi": [9], "vf": [8, 4]}}
    make: dict[str, Callable[[], Any]] = {
        "PPO of pictures": lambda: sb3.PPO("CnnPolicy", picture),
        "PPO of pictures, not scaled": lambda: sb3.PPO("CnnPolicy", picture, policy_kwargs={"normalize_images": False}),
        "PPO of pictures, layers behind": lambda: sb3.PPO("CnnPolicy", picture, policy_kwargs=relu),
        "DQN of pictures": lambda: sb3.DQN("CnnPolicy", picture, **small),
        "QR-DQN of pictures": lambda: contrib.QRDQN("CnnPolicy", picture, **small),
        "PPO, default": lambda: sb3.PPO("MlpPolicy", vector),
        "A2C, one network": lambda: sb3.A2C("MlpPolicy", vector, policy_kwargs={"net_arch": []}),
        "A2C, other widths": lambda: sb3.A2C("MlpPolicy", vector, policy_kwargs=apart),
        "DQN, default": lambda: sb3.DQN("MlpPolicy", vector, **small),
        "RecurrentPPO": lambda: contrib.RecurrentPPO("MlpLstmPolicy", vector),
        "RecurrentPPO of pictures": lambda: contrib.RecurrentPPO("CnnLstmPolicy", picture),
    }
    return make[name]()


@pytest.mark.packages
@pytest.mark.parametrize(
    "name",
    [
        "PPO of pictures", "PPO of pictures, not scaled", "PPO of pictures, layers behind",
        "DQN of pictures", "QR-DQN of pictures", "PPO, default",
        "A2C, one network", "A2C, other widths", "DQN, default", "RecurrentPPO", "RecurrentPPO of pictures",
    ],
)  # fmt: skip
@torch.no_grad()
def test_any_structure_that_is_open_is_read_rightly(tmp_path: Path, name: str) -> None:
    model = of_the_library(name)
    for parameter in model.policy.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)  # biases, which begin as 0
    model.save(tmp_path / "model.zip")
    shape, random = model.observation_space.shape, np.random.default_rng(1)
    pictures = len(shape) == 3
    seen = random.integers(0, 256, (6, *shape), np.uint8) if pictures else random.normal(size=(1000, *shape))
    obs = torch.from_numpy(seen if pictures else seen.astype(np.float32))
    if "QR" in name:
        theirs = model.policy.quantile_net(obs).mean(1)
    elif "DQN" in name:
        theirs = model.policy.q_net(obs)
    elif "Recurrent" in name:
        state, rows = tuple(torch.zeros(1, 1, 256) for _ in range(2)), []
        for row in obs[:, None]:
            distribution, state = model.policy.get_distribution(row, state, torch.zeros(1))
            rows.append(distribution.distribution.logits)
        theirs = torch.cat(rows)
    else:
        theirs = model.policy.get_distribution(obs).distribution.logits
    logits, _ = heard(read_sb3(tmp_path / "model.zip").build(), obs)
    if "DQN" not in name:
        logits = logits.log_softmax(-1)
    torch.testing.assert_close(logits, theirs, atol=1e-5, rtol=1e-5)
