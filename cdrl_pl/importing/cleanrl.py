"""Policies of CleanRL, from the ``.cleanrl_model`` files that its scripts write: a module's state, and no more.

What weights do not tell (strides, activations) is that of the scripts whose layers these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cdrl_pl.importing.archive import ImportedFileError
from cdrl_pl.importing.policy import ImportedPolicy, convolutional, impala, layers, named, widths
from cdrl_pl.importing.tensors import checked_state, content_of, unpickled
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.storage.verified import sha256

STAGE = ("conv", *(f"res_block{block}.conv{layer}" for block in (0, 1) for layer in (0, 1)))
STRIDES = (4, 2, 1)  # of its Atari networks
OPEN = "open are dqn, dqn_atari, qdagger_dqn_atari_impalacnn, ppo and ppo_atari"


def read_cleanrl(path: Path) -> ImportedPolicy:
    """The policy in a file of one of CleanRL's scripts in PyTorch.

    Args:
        path: of the file.

    Raises:
        ImportedFileError: a file that is not one, or that holds a network of another script.
    """
    content = content_of(path)
    state = checked_state(str(path), unpickled(str(path), content))
    origin = {
        "format": "cleanrl", "library": "cleanrl", "version": "unknown", "file": path.name, "sha256": sha256(content),
    }  # fmt: skip
    if {name.partition(".")[0] for name in state} == {"network"}:
        return _q_network(state, origin)
    if {"actor", "critic"} <= {name.partition(".")[0] for name in state}:
        return _actor_critic(state, origin)
    raise ImportedFileError(f"{path} has tensors of no script that is known ({', '.join(state)[:200]}); {OPEN}")


def _q_network(state: Mapping[str, Tensor], origin: dict[str, Any]) -> ImportedPolicy:
    shape: tuple[int, ...]
    if "network.0.conv.weight" in state:
        origin["algorithm"] = "qdagger_dqn_atari_impalacnn"
        names = [f"network.{stage}.{part}" for stage in range(3) for part in STAGE]
        if missing := [name for name in names if f"{name}.weight" not in state or f"{name}.bias" not in state]:
            raise ImportedFileError(f"it has no {missing[0]}; {OPEN}")
        *hidden, (head, bias) = layers(state, "network")
        pairs = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
        options, weights, shape = impala(pairs, hidden)
        network = NetworkConfig(lstm=0, activation="relu", **options)
    else:
        *hidden, (head, bias) = layers(state, "network")
        pictures = bool(hidden) and hidden[0][0].dim() == 4
        origin["algorithm"] = "dqn_atari" if pictures else "dqn"
        if pictures:
            network, weights, shape = _pictures(hidden)
        else:
            weights, shape = named(hidden, "trunk", 1), ((hidden[0][0] if hidden else head).shape[1],)
            network = NetworkConfig("mlp", hidden=widths(hidden), lstm=0, activation="relu")
    weights |= {"policy_head.weight": head, "policy_head.bias": bias}
    return ImportedPolicy(network, shape, len(bias), weights, origin, is_q=True)


def _pictures(
    hidden: list[tuple[Tensor, Tensor]],
) -> tuple[NetworkConfig, dict[str, Tensor], tuple[int, ...]]:
    convolutions = [pair for pair in hidden if pair[0].dim() == 4]
    options, weights, shape = convolutional(convolutions, STRIDES, hidden[len(convolutions) :])
    return NetworkConfig(lstm=0, activation="relu", **options), weights, shape


def _actor_critic(state: Mapping[str, Tensor], origin: dict[str, Any]) -> ImportedPolicy:
    if any("lstm" in name for name in state):
        raise ImportedFileError(f"it has {next(n for n in state if 'lstm' in n)!r}, of ppo_atari_lstm; {OPEN}")
    if "actor_logstd" in state:
        raise ImportedFileError(f"it has actor_logstd, of continuous actions; policies here choose among some; {OPEN}")
    shape: tuple[int, ...]
    if "actor.weight" in state:
        origin["algorithm"] = "ppo_atari"
        network, weights, shape = _pictures(layers(state, "network"))
        (actor, critic) = ((state[f"{part}.weight"], state[f"{part}.bias"]) for part in ("actor", "critic"))
    else:
        origin["algorithm"] = "ppo"
        (*hidden, actor), (*valued, critic) = layers(state, "actor"), layers(state, "critic")
        if [w.shape for w, _ in hidden] != [w.shape for w, _ in valued] or not hidden:
            raise ImportedFileError(f"actor and critic have layers of unlike widths; {OPEN}")
        network = NetworkConfig("mlp", hidden=widths(hidden), lstm=0, activation="tanh", value="own")
        weights, shape = {**named(hidden, "trunk", 1), **named(valued, "value_trunk", 1)}, (hidden[0][0].shape[1],)
    heads = {"policy_head": actor, "value_head": critic}
    for head, (weight, bias) in heads.items():
        weights |= {f"{head}.weight": weight, f"{head}.bias": bias}
    return ImportedPolicy(network, shape, len(actor[1]), weights, origin)
