"""Policies of Sample Factory: checkpoints that the library wrote, against what its own models said of observations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import REPOSITORY
from libraries import plays_otherwise, stacked
from torch import Tensor

from cdrl_pl.importing.archive import ImportedFileError
from cdrl_pl.importing.sample_factory import ENCODER, STATISTICS, read_sample_factory

DATA = REPOSITORY / "tests" / "data" / "sample_factory"
POLES = ("gru", "lstm", "plain")
ACTION = "action_parameterization.distribution_linear"


def said(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / name / "said.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("name", [*POLES, "pong"])
def test_what_it_says_is_what_the_library_said(name: str) -> None:
    policy = read_sample_factory(DATA / name)
    random, theirs = np.random.default_rng(0), said(name)  # as tests/data/sample_factory/make.py has it
    obs = torch.from_numpy(random.normal(0.0, (1.0, 1.0, 0.1, 1.0), (1000, 4)).astype(np.float32))
    if name == "pong":
        obs = stacked(theirs["frames"])
    network = policy.build()
    output = network(obs[:, None], network.initial_state(1), torch.zeros(1000, 1, dtype=torch.bool))
    np.testing.assert_allclose(output.logits[:, 0].numpy(), theirs["logits"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(output.values[:, 0].numpy(), theirs["values"], atol=1e-4, rtol=1e-5)
    assert policy.network.normalise and policy.network.clip == 5.0
    path = next((DATA / name / "checkpoint_p0").iterdir())
    frames = 4 if name == "pong" else 1  # of a decision; the library counts them
    assert policy.env_steps == int(path.stem.split("_")[2]) // frames
    assert policy.score is None  # what the library calls its best is a mean of training
    assert (policy.network.gru, policy.network.lstm) == {
        "gru": (16, 0),
        "lstm": (0, 16),
        "plain": (0, 0),
        "pong": (0, 0),
    }[name]
    assert read_sample_factory(path).origin == policy.origin


@pytest.mark.slow
@pytest.mark.parametrize("name", POLES)
def test_it_plays_as_it_does_in_its_library(name: str) -> None:
    """(The short model of Pong loses every point in either.)"""
    assert not plays_otherwise(read_sample_factory(DATA / name).build(), "CartPole-v1", said(name)["returns"])


# Pictures: made here, and read by other means

Tensors = dict[str, Tensor]


def made(folder: Path, state: Tensors, **config: Any) -> Path:
    path = folder / "checkpoint_p0" / "checkpoint_000000001_400.pth"
    path.parent.mkdir()
    torch.save({"model": state, "env_steps": 400, "best_performance": np.float64(3.0)}, path)
    (folder / "config.json").write_text(json.dumps({"nonlinearity": "relu", "obs_scale": 255.0, **config}))
    return path


def randomly(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def statistics(*shape: int) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    mean, variance = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return {
        f"{STATISTICS}.running_mean": mean, f"{STATISTICS}.running_var": variance * 0.1,
        f"{STATISTICS}.count": torch.tensor([9.0]),
    }  # fmt: skip


def normalised(obs: Tensor, state: Tensors) -> Tensor:
    mean, variance = (state[f"{STATISTICS}.running_{name}"] for name in ("mean", "var"))
    return ((obs.double() / 255 - mean) / (variance + 1e-5).sqrt()).clamp(-5, 5).float()


def pair(state: Tensors, name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


@pytest.mark.parametrize("with_statistics", [True, False])
def test_convolutions_are_those_of_the_architecture(tmp_path: Path, with_statistics: bool) -> None:
    head, mlp = f"{ENCODER}.enc.conv_head", f"{ENCODER}.enc.mlp_layers"
    state = randomly(
        **layer(f"{head}.0", 4, 2, 8, 8), **layer(f"{head}.2", 5, 4, 4, 4), **layer(f"{head}.4", 6, 5, 3, 3),
        **layer(f"{mlp}.0", 8, 6 * 4 * 4), **layer(ACTION, 3, 8), **layer("critic_linear", 1, 8),
    )  # fmt: skip
    if with_statistics:
        state |= statistics(2, 84, 84)
    config = {"encoder_conv_architecture": "convnet_simple", "env_frameskip": 4, "summaries_use_frameskip": True}
    policy = read_sample_factory(made(tmp_path, state, **config))
    assert policy.env_steps == 100 and policy.obs_shape == (2, 84, 84)
    obs = torch.randint(0, 256, (5, 2, 84, 84), dtype=torch.uint8)
    x = normalised(obs, state) if with_statistics else obs / 255
    for name, stride in ((f"{head}.0", 4), (f"{head}.2", 2), (f"{head}.4", 2)):
        x = F.relu(F.conv2d(x, *pair(state, name), stride=stride))
    x = F.relu(F.linear(x.flatten(1), *pair(state, f"{mlp}.0")))
    network = policy.build()
    logits, values, _ = network.act(obs, network.initial_state(5), torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(logits, F.linear(x, *pair(state, ACTION)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(values, F.linear(x, *pair(state, "critic_linear")).squeeze(-1), atol=1e-5, rtol=1e-4)


def test_the_deep_network_is_read_block_by_block(tmp_path: Path) -> None:
    head = f"{ENCODER}.conv_head"
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 1
    for stage, maps in enumerate((16, 32, 32)):
        shapes |= layer(f"{head}.{4 * stage}", maps, channels, 3, 3)
        for block in (2, 3):
            for part in (1, 3):
                shapes |= layer(f"{head}.{4 * stage + block}.res_block_core.{part}", maps, maps, 3, 3)
        channels = maps
    shapes |= {**layer(f"{ENCODER}.mlp_layers.0", 7, 32 * 6 * 6), **layer(ACTION, 4, 7), **layer("critic_linear", 1, 7)}
    state = randomly(**shapes)
    policy = read_sample_factory(made(tmp_path, state, encoder_conv_architecture="resnet_impala", nonlinearity="elu"))
    policy = policy.seeing((1, 42, 42))
    obs = torch.randint(0, 256, (3, 1, 42, 42), dtype=torch.uint8)
    x = obs / 255
    for stage in range(3):
        x = F.max_pool2d(F.conv2d(x, *pair(state, f"{head}.{4 * stage}"), padding=1), 3, 2, 1)
        for block in (2, 3):
            y = x
            for part in (1, 3):
                y = F.conv2d(F.elu(y), *pair(state, f"{head}.{4 * stage + block}.res_block_core.{part}"), padding=1)
            x = x + y
    x = F.elu(F.linear(F.elu(x).flatten(1), *pair(state, f"{ENCODER}.mlp_layers.0")))
    network = policy.build()
    logits, _, _ = network.act(obs, network.initial_state(3), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(logits, F.linear(x, *pair(state, ACTION)), atol=1e-4, rtol=1e-4)


# What is refused


def separate(state: Tensors) -> None:
    state["actor_encoder.encoders.obs.mlp_head.0.weight"] = torch.zeros(1, 1)


def continuous(state: Tensors) -> None:
    state["action_parameterization.learned_stddev"] = torch.zeros(1)


def two_observations(state: Tensors) -> None:
    state["encoder.encoders.measurements.mlp_head.0.weight"] = torch.zeros(1, 1)


def deep_core(state: Tensors) -> None:
    state["core.core.weight_ih_l1"] = torch.zeros(1, 1)


def no_head(state: Tensors) -> None:
    del state[f"{ACTION}.weight"]


def no_encoder(state: Tensors) -> None:
    del state[f"{ENCODER}.mlp_head.0.weight"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (separate, "'actor_encoder.encoders.obs.mlp_head.0.weight', of separate weights"),
        (continuous, "learned_stddev, of continuous actions"),
        (two_observations, "'encoder.encoders.measurements.mlp_head.0.weight', of another encoder"),
        (deep_core, r"several layers \(rnn_num_layers\)"),
        (no_head, "tensors of no known kind"),
        (no_encoder, "its encoder_conv_architecture is 'convnet_simple'|no known network"),
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path: Path, change: Callable[[Tensors], None], said: str) -> None:
    path = Path(shutil.copytree(DATA / "gru", tmp_path / "gru"))
    checkpoint = next((path / "checkpoint_p0").iterdir())
    state = torch.load(checkpoint, weights_only=False)["model"]
    change(state)
    torch.save({"model": state}, checkpoint)
    with pytest.raises(ImportedFileError, match=said):
        read_sample_factory(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImportedFileError, match="has no checkpoint_p0/best_"):
        read_sample_factory(tmp_path)
    path = Path(shutil.copytree(DATA / "gru", tmp_path / "gru"))
    (path / "config.json").write_text("{")
    with pytest.raises(ImportedFileError, match=r"config.json is no JSON"):
        read_sample_factory(path)
    (path / "config.json").unlink()
    with pytest.raises(ImportedFileError, match=r"needs the config.json of its experiment"):
        read_sample_factory(path)
    torch.save([1], tmp_path / "other.pth")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ImportedFileError, match=r"other.pth is no checkpoint of Sample Factory"):
        read_sample_factory(tmp_path / "other.pth")


def test_statistics_that_are_missing_are_named(tmp_path: Path) -> None:
    path = Path(shutil.copytree(DATA / "pong", tmp_path / "pong"))
    checkpoint = next((path / "checkpoint_p0").iterdir())
    state = torch.load(checkpoint, weights_only=False)["model"]
    torch.save({"model": {n: t for n, t in state.items() if not n.startswith("obs_normalizer")}}, checkpoint)
    with pytest.raises(ImportedFileError, match="no statistics of observations, which its normalize_input needs"):
        read_sample_factory(path)


def test_a_scale_without_statistics_is_refused(tmp_path: Path) -> None:
    state = torch.load(next((DATA / "plain" / "checkpoint_p0").iterdir()), weights_only=False)["model"]
    state = {name: tensor for name, tensor in state.items() if not name.startswith("obs_normalizer")}
    with pytest.raises(
        ImportedFileError, match="its obs_scale is 255 and obs_subtract_mean 0, without normalize_input"
    ):
        read_sample_factory(made(tmp_path, state))
