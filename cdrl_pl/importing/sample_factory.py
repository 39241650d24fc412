"""Policies of Sample Factory (2.x), from the checkpoints of an experiment and the ``config.json`` beside them.

Only tensors and plain numbers are read (``weights_only=True``). Observations are scaled and normalised as there: by a
running mean and deviation of every number, cut off at 5 deviations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdrl_pl.importing.archive import ImportedFileError
from cdrl_pl.importing.policy import ImportedPolicy, convolutional, impala, layers, named, widths
from cdrl_pl.importing.tensors import checked_state, content_of, unpickled
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.storage.verified import sha256

CONFIG = "config.json"
ENCODER, STATISTICS = "encoder.encoders.obs", "obs_normalizer.running_mean_std.running_mean_std.obs"
EPSILON, CLIP = 1e-5, 5.0  # of its normaliser
STRIDES = {"convnet_simple": (4, 2, 2), "convnet_impala": (4, 2), "convnet_atari": (4, 2, 1)}
OPEN = "open are its MLP, convnet and resnet_impala encoders of one observation, LSTM and GRU, shared weights"


def read_sample_factory(path: Path) -> ImportedPolicy:
    """The policy in a checkpoint of Sample Factory.

    Args:
        path: of the checkpoint, or of the experiment's folder, whose best checkpoint is taken, or else its last.

    Raises:
        ImportedFileError: a file that is not one, no config, or a model of another kind, naming it.
    """
    path = _newest(path) if path.is_dir() else path
    config, content = _config(path), content_of(path)
    checkpoint = unpickled(str(path), content)
    if not isinstance(checkpoint, Mapping) or "model" not in checkpoint:
        raise ImportedFileError(f"{path} is no checkpoint of Sample Factory: it has no model")
    state = checked_state(f"{path}: model", checkpoint["model"])
    origin = {
        "format": "sample_factory", "library": "sample-factory", "version": "2", "algorithm": "APPO",
        "file": path.name, "sha256": sha256(content),
    }  # fmt: skip
    steps = checkpoint.get("env_steps")  # its best_performance is a mean of training, of policies before this one
    frames = config.get("env_frameskip", 1) if config.get("summaries_use_frameskip") else 1  # it counts frames then
    return _policy(
        state,
        config,
        origin=origin,
        env_steps=steps // max(int(frames), 1) if isinstance(steps, int) else None,
    )


def _newest(folder: Path) -> Path:
    for kind in ("best", "checkpoint"):
        if found := sorted(folder.glob(f"checkpoint_p0/{kind}_*.pth")):
            return found[-1]
    raise ImportedFileError(f"{folder} has no checkpoint_p0/best_*.pth, nor checkpoint_*.pth")


def _config(path: Path) -> dict[str, Any]:
    for place in (path.parent / CONFIG, path.parent.parent / CONFIG):
        if place.is_file():
            try:
                config = json.loads(content_of(place))
            except (ValueError, RecursionError) as error:
                raise ImportedFileError(f"{place} is no JSON: {error}") from None
            if not isinstance(config, dict):
                raise ImportedFileError(f"{place} must be an object")
            return config
    raise ImportedFileError(f"{path} needs the {CONFIG} of its experiment, beside it or in the folder above")


def _policy(state: Mapping[str, Tensor], config: Mapping[str, Any], **common: Any) -> ImportedPolicy:
    if "action_parameterization.distribution_linear.weight" not in state or "critic_linear.weight" not in state:
        raise ImportedFileError(f"its model has tensors of no known kind ({', '.join(state)[:200]}); {OPEN}")
    if other := [name for name in state if name.startswith(("actor_", "critic_encoder", "critic_core"))]:
        raise ImportedFileError(f"its model has {other[0]!r}, of separate weights for actor and critic; {OPEN}")
    if "action_parameterization.learned_stddev" in state:
        raise ImportedFileError(f"its model has a learned_stddev, of continuous actions; {OPEN}")
    unread = [n for n in state if n.startswith(("encoder.", "obs_n")) and not n.startswith((ENCODER + ".", STATISTICS))]
    if unread:
        raise ImportedFileError(f"its model has {unread[0]!r}, of another encoder or observation; {OPEN}")
    options, weights, shape = _encoder(state, config)
    options |= {"lstm": 0, "activation": config.get("nonlinearity", "elu")}
    if "core.core.weight_ih_l0" in state:
        if "core.core.weight_ih_l1" in state:
            raise ImportedFileError(f"its core has several layers (rnn_num_layers); {OPEN}")
        core = str(config.get("rnn_type", "gru"))
        options[core] = state["core.core.weight_hh_l0"].shape[1]
        weights |= {name.replace("core.core", core): t for name, t in state.items() if name.startswith("core.core.")}
    decoder = layers(state, "decoder.mlp")
    options["after"] = widths(decoder)
    weights |= named(decoder, "after", 0)
    action = "action_parameterization.distribution_linear"
    weights |= {f"policy_head.{part}": state[f"{action}.{part}"] for part in ("weight", "bias")}
    weights |= _values(state) | _normaliser(state, config, options, len(shape) == 3)
    return ImportedPolicy(NetworkConfig(**options), shape, len(state[f"{action}.bias"]), weights, **common)


def _encoder(
    state: Mapping[str, Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[int, ...]]:
    hidden = layers(state, f"{ENCODER}.mlp_head")
    if hidden:
        return {"trunk": "mlp", "hidden": widths(hidden)}, named(hidden, "trunk", 1), (hidden[0][0].shape[1],)
    architecture = config.get("encoder_conv_architecture")
    if architecture in STRIDES:
        convolutions, linear = (layers(state, f"{ENCODER}.enc.{part}") for part in ("conv_head", "mlp_layers"))
        return convolutional(convolutions, STRIDES[architecture], linear)
    if architecture == "resnet_impala" and f"{ENCODER}.conv_head.0.weight" in state:
        names = []
        for stage in range(0, 12, 4):
            parts = [f"{stage + block}.res_block_core.{layer}" for block in (2, 3) for layer in (1, 3)]
            names += [f"{ENCODER}.conv_head.{part}" for part in (stage, *parts)]
        if missing := [name for name in names if f"{name}.weight" not in state or f"{name}.bias" not in state]:
            raise ImportedFileError(f"its model has no {missing[0]}; {OPEN}")
        pairs = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
        return impala(pairs, layers(state, f"{ENCODER}.mlp_layers"))
    raise ImportedFileError(f"its encoder_conv_architecture is {architecture!r}; {OPEN}")


def _values(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The value head, in the (scaled) rewards of training: its normalised returns are multiplied out."""
    weight, bias = state["critic_linear.weight"], state["critic_linear.bias"]
    if (mean := state.get("returns_normalizer.running_mean")) is not None:
        deviation = (state["returns_normalizer.running_var"] + EPSILON).sqrt()
        weight, bias = weight * deviation, bias * deviation + mean
    return {"value_head.weight": weight, "value_head.bias": bias}


def _normaliser(
    state: Mapping[str, Tensor], config: Mapping[str, Any], options: dict[str, Any], pictures: bool
) -> dict[str, Tensor]:
    """Its scale and statistics as those of this project's network, which reads numbers as they are shown."""
    scale, shift = float(config.get("obs_scale", 1.0)), float(config.get("obs_subtract_mean", 0.0))
    mean, variance = (state.get(f"{STATISTICS}.{name}") for name in ("running_mean", "running_var"))
    if mean is None or variance is None:
        if config.get("normalize_input") and "obs" in (config.get("normalize_input_keys") or ["obs"]):
            raise ImportedFileError("its model has no statistics of observations, which its normalize_input needs")
        if (scale, shift) != (255.0 if pictures else 1.0, 0.0):  # as this project's network reads them
            raise ImportedFileError(
                f"its obs_scale is {scale:g} and obs_subtract_mean {shift:g}, without normalize_input"
            )
        return {}
    options |= {"normalise": True, "clip": CLIP}
    count = state.get(f"{STATISTICS}.count", torch.ones(1))
    return {
        "normaliser.mean": mean.flatten() * scale + shift,
        "normaliser.variance": (variance.flatten() + EPSILON) * scale**2 - 1e-8,
        "normaliser.count": count.reshape(1),
    }
