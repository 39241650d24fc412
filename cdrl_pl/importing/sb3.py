"""Policies of Stable-Baselines3 and sb3-contrib (2.x), from the zip files that ``model.save`` writes.

Only ``policy.pth`` (by ``weights_only=True``) and the plain values of ``data`` are read; what is pickled in a file is
never loaded. The structure is read off the tensors' names and shapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdrl_pl.importing.archive import Archive, ImportedFileError
from cdrl_pl.importing.policy import ImportedPolicy, convolutional, layers, named, widths
from cdrl_pl.importing.tensors import checked_state, content_of, unpickled
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.storage.verified import sha256

WEIGHTS, DATA, VERSION = "policy.pth", "data", "_stable_baselines3_version"
ACTIVATIONS = {"Tanh": "tanh", "ReLU": "relu", "ELU": "elu"}
STRIDES = (4, 2, 1)  # of the library's NatureCNN
OPEN = "open are MlpPolicy and CnnPolicy of PPO, A2C, DQN, QR-DQN, RecurrentPPO and MaskablePPO"
Layers = list[tuple[Tensor, Tensor]]


def read_sb3(path: Path) -> ImportedPolicy:
    """The policy in a zip file of Stable-Baselines3.

    Args:
        path: of the file.

    Raises:
        ImportedFileError: a file that is not one, or that holds a policy of another kind, naming it.
    """
    archive = Archive(path)
    what = f"{path}: {WEIGHTS}"
    state = checked_state(what, unpickled(what, archive.read(WEIGHTS, 2**29)))
    data = _plain(path, archive.read(DATA, 2**24))
    version = archive.read(VERSION, 100).decode(errors="replace").strip() if VERSION in archive.names else "unknown"
    steps, origin = data.get("num_timesteps"), {
        "format": "sb3", "library": "stable-baselines3", "version": version, "file": path.name,
        "sha256": sha256(content_of(path)),
    }  # fmt: skip
    common = {"origin": origin, "env_steps": steps if isinstance(steps, int) else None, "score": _score_beside(path)}
    if any(name.startswith("q_net.") for name in state):
        origin["algorithm"] = "DQN"
        return _q_network(state, data, "q_net.q_net", "q_net.features_extractor", 1, common)
    if any(name.startswith("quantile_net.") for name in state):
        origin["algorithm"] = "QR-DQN"
        names = ("quantile_net.quantile_net", "quantile_net.features_extractor")
        return _q_network(state, data, *names, _number_of_quantiles(path, data), common)
    if "action_net.weight" not in state:
        raise ImportedFileError(f"{path} has tensors of no policy that is known ({', '.join(state)[:200]}); {OPEN}")
    if "log_std" in state:
        raise ImportedFileError(f"{path} has log_std, of continuous actions; policies here choose among some; {OPEN}")
    recurrent = "lstm_actor.weight_ih_l0" in state
    origin["algorithm"] = "RecurrentPPO" if recurrent else "PPO, A2C or MaskablePPO"
    return _actor_critic(state, data, recurrent, common)


def _plain(path: Path, content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ImportedFileError(f"{path}: {DATA} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ImportedFileError(f"{path}: {DATA} must be an object")
    return data


def _score_beside(path: Path) -> float | None:
    """The mean return that RL Zoo3 writes to results.json beside a model that it uploads."""
    try:
        score = json.loads((path.parent / "results.json").read_bytes())["mean_reward"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(score) if isinstance(score, int | float) else None


def _policy_option(data: Mapping[str, Any], name: str) -> Any:
    """As ``policy_kwargs`` has it in plain text, beside what is pickled; None where it was left as it is."""
    chosen = data.get("policy_kwargs")
    return chosen.get(name) if isinstance(chosen, dict) else None


def _activation(data: Mapping[str, Any], default: str) -> Any:
    if not (text := str(_policy_option(data, "activation_fn") or "")):
        return default
    name = text.rpartition(".")[2].rstrip("'>")
    if name not in ACTIVATIONS:
        raise ImportedFileError(f"policy_kwargs.activation_fn is {text!r}; open are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _number_of_quantiles(path: Path, data: Mapping[str, Any]) -> int:
    count = _policy_option(data, "n_quantiles")
    count = 200 if count is None else count  # the library's default
    if not isinstance(count, int) or count < 1:
        raise ImportedFileError(f"{path}: {DATA}: policy_kwargs.n_quantiles is {count!r}; it must be 1 or more")
    return count


def _actor_critic(
    state: Mapping[str, Tensor], data: Mapping[str, Any], recurrent: bool, common: dict[str, Any]
) -> ImportedPolicy:
    """Features, where recurrent an LSTM, a sequence of layers of its own for policy and value, and a layer for each.

    Values go along where this project's network has a place for all that they are read off.
    """
    actor, critic = (layers(state, f"mlp_extractor.{part}_net") for part in ("policy", "value"))
    weights = {"policy_head.weight": state["action_net.weight"], "policy_head.bias": state["action_net.bias"]}
    value = {"value_head.weight": state["value_net.weight"], "value_head.bias": state["value_net.bias"]}
    options: dict[str, Any] = {"lstm": 0, "activation": _activation(data, "tanh")}
    shape: tuple[int, ...]
    if recurrent:
        if "lstm_actor.weight_ih_l1" in state:
            raise ImportedFileError("lstm_actor has several layers (n_lstm_layers); open is one")
        weights |= {f"lstm.{n.removeprefix('lstm_actor.')}": t for n, t in state.items() if n.startswith("lstm_actor.")}
        options["lstm"] = state["lstm_actor.weight_hh_l0"].shape[1]
    pictures = "features_extractor.cnn.0.weight" in state
    if pictures:
        shared = _equal(state, "pi_features_extractor.", "vf_features_extractor.")
        made, trunk, shape = _nature(state, data, "features_extractor" if shared else "pi_features_extractor")
        _check_relu(actor, options["activation"])
        options |= {**made, "activation": "relu"}
        weights |= trunk
        with_value = shared and not recurrent and not actor and not critic
    elif recurrent:
        options |= {"trunk": "mlp", "hidden": ()}
        shape, with_value = (state["lstm_actor.weight_ih_l0"].shape[1],), False
    else:
        options |= {"trunk": "mlp", "hidden": widths(actor)}
        weights |= named(actor, "trunk", 1)
        shape = ((actor[0][0] if actor else state["action_net.weight"]).shape[1],)
        with_value = [w.shape for w, _ in actor] == [w.shape for w, _ in critic]
        if with_value and actor:
            options["value"] = "own"
            weights |= named(critic, "value_trunk", 1)
    if pictures or recurrent:
        options["after"] = widths(actor)
        weights |= named(actor, "after", 0)
    weights |= value if with_value else {}
    return ImportedPolicy(NetworkConfig(**options), shape, len(state["action_net.bias"]), weights, **common)


def _check_relu(behind: Layers, activation: str) -> None:
    """This project's networks have one activation, and NatureCNN's is ReLU."""
    if behind and activation != "relu":
        raise ImportedFileError(f"a CnnPolicy with {activation} in the layers behind its features is not open; relu is")


def _equal(state: Mapping[str, Tensor], one: str, other: str) -> bool:
    names = [name.removeprefix(one) for name in state if name.startswith(one)]
    return all(torch.equal(state[one + name], state[other + name]) for name in names)


def _q_network(
    state: Mapping[str, Tensor], data: Mapping[str, Any], name: str, extractor: str, quantiles: int, common: Any
) -> ImportedPolicy:
    """Q-values as logits; of quantiles [Q, A], whose mean is the value, the last layer's rows are averaged."""
    *hidden, (weight, bias) = layers(state, name)
    actions, left = divmod(len(bias), quantiles)
    if left:
        raise ImportedFileError(
            f"{name} gives {len(bias)} numbers, which are not {quantiles} quantiles of some actions"
        )
    weight, bias = weight.view(quantiles, actions, -1).mean(0), bias.view(quantiles, actions).mean(0)
    weights, activation = {"policy_head.weight": weight, "policy_head.bias": bias}, _activation(data, "relu")
    if f"{extractor}.cnn.0.weight" in state:
        options, trunk, shape = _nature(state, data, extractor)
        _check_relu(hidden, activation)
        weights |= {**trunk, **named(hidden, "after", 0)}
        network = NetworkConfig(lstm=0, activation="relu", after=widths(hidden), **options)
        return ImportedPolicy(network, shape, actions, weights, is_q=True, **common)
    network = NetworkConfig("mlp", hidden=widths(hidden), lstm=0, activation=activation)
    weights |= named(hidden, "trunk", 1)
    read = (hidden[0][0] if hidden else weight).shape[1]
    return ImportedPolicy(network, (read,), actions, weights, is_q=True, **common)


def _nature(
    state: Mapping[str, Tensor], data: Mapping[str, Any], name: str
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[int, int, int]]:
    """``NatureCNN``: three convolutions and a layer, ReLU after each.

    Pictures are scaled to 0..1 as here; where they were not (``normalize_images``), the first weights take it back.
    """
    convolutions = layers(state, f"{name}.cnn")
    if _policy_option(data, "normalize_images") is False:
        convolutions = [(255 * convolutions[0][0], convolutions[0][1]), *convolutions[1:]]
    return convolutional(convolutions, STRIDES, layers(state, f"{name}.linear"))
