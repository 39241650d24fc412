"""Policies of Stable-Baselines3 (2.x), from the zip files that ``model.save`` writes.

Only ``policy.pth`` (by ``weights_only=True``) and the plain values of ``data`` are read; what is pickled in a file is never
loaded. The structure is read off the tensors' names and shapes.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdrl_pl.importing.archive import Archive, ImportedFileError
from cdrl_pl.importing.policy import ImportedPolicy, layers, named, width_of
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.storage.verified import sha256

WEIGHTS, DATA, VERSION = "policy.pth", "data", "_stable_baselines3_version"
ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu", "ELU": "elu"}
NATURE = [(32, 8), (64, 4), (64, 3)]  # filters and their sides, of the convolutions of Mnih et al. 2015
OPEN = "open are MlpPolicy and CnnPolicy of PPO, A2C and DQN"


def read_sb3(path: Path, temperature: float = 1.0) -> ImportedPolicy:
    """The policy in a zip file of Stable-Baselines3.

    Args:
        path: of the file.
        temperature: of the softmax over a Q-network's values, in points; its logits are Q / temperature.

    Raises:
        ImportedFileError: a file that is not one, or that holds a policy of another kind, naming it.
    """
    archive = Archive(path)
    state = _tensors(path, archive.read(WEIGHTS, 2**29))
    data = _plain(path, archive.read(DATA, 2**24))
    version = archive.read(VERSION, 100).decode(errors="replace").strip() if VERSION in archive.names else "unknown"
    if wrong := [name for name in state if "lstm" in name or "quantile" in name or name.startswith("actor.")]:
        raise ImportedFileError(f"{path} has {wrong[0]!r}, of a policy that is not open yet; {OPEN}")
    if any(name.startswith("q_net.") for name in state):
        policy, algorithm = _q_network(state, data, temperature), "DQN"
    elif "action_net.weight" in state:
        policy, algorithm = _actor_critic(state, data), "PPO or A2C"
    else:
        raise ImportedFileError(f"{path} has tensors of no policy that is known ({', '.join(state)[:200]}); {OPEN}")
    policy.origin.update(
        format="sb3",
        library="stable-baselines3",
        version=version,
        algorithm=algorithm,
        file=path.name,
        sha256=sha256(path.read_bytes()),
    )
    return policy


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ImportedFileError(f"{path}: {WEIGHTS} is more than tensors, or damaged; refused: {reason}") from None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ImportedFileError(f"{path}: {WEIGHTS} must hold tensors by name")
    wrong = [name for name, tensor in state.items() if not torch.isfinite(tensor.float()).all()]
    if wrong:
        raise ImportedFileError(f"{path}: {wrong[0]} is not finite")
    return {name: tensor.float() for name, tensor in state.items()}


def _plain(path: Path, content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ImportedFileError(f"{path}: {DATA} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ImportedFileError(f"{path}: {DATA} must be an object")
    return data


def _activation(data: Mapping[str, Any], default: str) -> Any:
    """By the plain text that stands beside what is pickled; where none was chosen, the library's default."""
    chosen = data.get("policy_kwargs")
    text = str(chosen.get("activation_fn", "")) if isinstance(chosen, dict) else ""
    if not text:
        return default
    name = text.rpartition(".")[2].rstrip("'>")
    if name not in ACTIVATIONS:
        raise ImportedFileError(f"policy_kwargs.activation_fn is {text!r}; open are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _actor_critic(state: Mapping[str, Tensor], data: Mapping[str, Any]) -> ImportedPolicy:
    """Features, then a trunk of its own for the policy and for the value (``mlp_extractor``), then a layer each."""
    heads = {
        "policy_head.weight": state["action_net.weight"], "policy_head.bias": state["action_net.bias"],
        "value_head.weight": state["value_net.weight"], "value_head.bias": state["value_net.bias"],
    }  # fmt: skip
    actor, critic = (layers(state, f"mlp_extractor.{part}_net") for part in ("policy", "value"))
    if "features_extractor.cnn.0.weight" in state:
        if actor or critic:
            raise ImportedFileError("a CnnPolicy with layers after its features (net_arch) is not open yet")
        if "pi_features_extractor.cnn.0.weight" in state and not _equal(
            state, "pi_features_extractor.", "vf_features_extractor."
        ):
            raise ImportedFileError("a CnnPolicy whose value has features of its own is not open yet")
        return _nature(state, "features_extractor.", heads)
    if not actor:
        raise ImportedFileError("a policy without hidden layers is not open yet")
    network: dict[str, Any] = {"depth": len(actor), "hidden": width_of(actor, "the policy")}
    weights = {**heads, **named(actor, "trunk", 1)}
    if [tuple(w.shape) for w, _ in actor] == [tuple(w.shape) for w, _ in critic]:
        network["value"] = "own"
        weights |= named(critic, "value_trunk", 1)
    else:
        del weights["value_head.weight"], weights["value_head.bias"]
    config = NetworkConfig(trunk="mlp", lstm=0, activation=_activation(data, "tanh"), **network)
    return ImportedPolicy(config, (actor[0][0].shape[1],), len(heads["policy_head.bias"]), weights)


def _equal(state: Mapping[str, Tensor], one: str, other: str) -> bool:
    names = [name.removeprefix(one) for name in state if name.startswith(one)]
    return all(torch.equal(state[one + name], state[other + name]) for name in names)


def _q_network(state: Mapping[str, Tensor], data: Mapping[str, Any], temperature: float) -> ImportedPolicy:
    """Q-values as logits: greedy play is the library's own, and the softmax over Q / temperature is the sampled one."""
    q = layers(state, "q_net.q_net")
    *hidden, (weight, bias) = q
    heads = {"policy_head.weight": weight / temperature, "policy_head.bias": bias / temperature}
    if "q_net.features_extractor.cnn.0.weight" in state:
        if hidden:
            raise ImportedFileError("a CnnPolicy with layers after its features (net_arch) is not open yet")
        policy = _nature(state, "q_net.features_extractor.", heads)
    else:
        if not hidden:
            raise ImportedFileError("a policy without hidden layers is not open yet")
        network = NetworkConfig(
            trunk="mlp", depth=len(hidden), hidden=width_of(hidden, "the Q-network"), lstm=0,
            activation=_activation(data, "relu"),
        )  # fmt: skip
        weights = {**heads, **named(hidden, "trunk", 1)}
        policy = ImportedPolicy(network, (hidden[0][0].shape[1],), len(bias), weights)
    policy.origin["temperature"] = temperature
    return policy


def _nature(state: Mapping[str, Tensor], prefix: str, heads: dict[str, Tensor]) -> ImportedPolicy:
    """``NatureCNN``: three convolutions and a layer, ReLU after each; pictures are scaled to 0..1 as here."""
    convolutions, (linear, *more) = layers(state, f"{prefix}cnn"), layers(state, f"{prefix}linear")
    if [(weight.shape[0], weight.shape[2]) for weight, _ in convolutions] != NATURE or more:
        raise ImportedFileError(f"{prefix}cnn is not the library's NatureCNN")
    features = linear[0].shape[1] // NATURE[-1][0]
    side = next((s for s in range(36, 400) if _after_convolutions(s) ** 2 == features), None)
    if side is None:
        raise ImportedFileError(f"{prefix}linear reads {linear[0].shape[1]} features, as of no square picture")
    config = NetworkConfig(trunk="nature", hidden=len(linear[1]), lstm=0, activation="relu")
    weights = {**heads, **named(convolutions, "trunk", 0), "trunk.7.weight": linear[0], "trunk.7.bias": linear[1]}
    actions = len(heads["policy_head.bias"])
    return ImportedPolicy(config, (convolutions[0][0].shape[1], side, side), actions, weights)


def _after_convolutions(side: int) -> int:
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        side = (side - kernel) // stride + 1
    return side
