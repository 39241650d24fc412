"""A policy of another library, as this project's own network, and what is known of where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cdrl_pl.checks import ConfigError
from cdrl_pl.importing.archive import ImportedFileError
from cdrl_pl.networks import ONNX, NetworkConfig, PolicyNetwork
from cdrl_pl.onnx.network import OnnxNetwork
from cdrl_pl.trunks import IMPALA

USUAL = (84, 64, 96, 72, 42)  # sides of pictures, in pixels; several have the same number of features


@dataclass(frozen=True)
class ImportedPolicy:
    """Weights under the names that this project's network has.

    Attributes:
        network: structure.
        obs_shape: of one observation, as the policy reads it: [C, H, W] or [N].
        num_actions: number of actions, A.
        weights: by name; what a policy has no part for (values of a Q-network, distillation) is not in it.
        origin: format, library, version, algorithm and checksum, in plain JSON.
        env_steps: decisions that it was trained for; None: not known.
        is_q: its logits are Q-values, whose softmax nobody has trained.
        score: mean return that its own library found; None: not known.
    """

    network: NetworkConfig
    obs_shape: tuple[int, ...]
    num_actions: int
    weights: dict[str, Tensor]
    origin: dict[str, Any] = field(default_factory=dict)
    env_steps: int | None = None
    is_q: bool = False
    score: float | None = None

    def seeing(self, obs_shape: tuple[int, ...]) -> ImportedPolicy:
        """The policy that reads observations of this shape, where weights leave it open; else as it is.

        (Pictures of 84 to 87 pixels have equally many features.)
        """
        if len(obs_shape) != 3 or obs_shape[0] != self.obs_shape[0] or self.network.trunk == ONNX:
            return self
        other = replace(self, obs_shape=obs_shape)
        try:
            with torch.device("meta"):
                made = PolicyNetwork(self.network, obs_shape, self.num_actions).state_dict()
        except ConfigError:
            return self
        fits = all(name in made and made[name].shape == tensor.shape for name, tensor in self.weights.items())
        return other if fits else self

    def cooled(self, temperature: float) -> ImportedPolicy:
        """The policy whose logits are divided by a temperature, which its origin then has."""
        origin = {**self.origin, "temperature": temperature}
        if self.network.trunk == ONNX:
            options = {**self.network.trunk_options, "temperature": temperature}
            return replace(self, network=replace(self.network, trunk_options=options), origin=origin)
        divided = {n: t / temperature for n, t in self.weights.items() if n.startswith("policy_head.")}
        return replace(self, weights={**self.weights, **divided}, origin=origin)

    @torch.no_grad()
    def build(self) -> PolicyNetwork:
        """The network; heads that the policy has nothing for say nothing: 0 in every state.

        Raises:
            ImportedFileError: a tensor that the structure has no place for, or none for one of its places.
            OnnxError: it is a graph that is refused.
        """
        if self.network.trunk == ONNX:
            return OnnxNetwork(self.network, self.obs_shape, self.num_actions).eval()
        network = PolicyNetwork(self.network, self.obs_shape, self.num_actions)
        state = network.state_dict()
        for name, tensor in self.weights.items():
            if name not in state or state[name].shape != tensor.shape:
                wanted = tuple(state[name].shape) if name in state else "no such tensor"
                raise ImportedFileError(f"{name} has the shape {tuple(tensor.shape)}; the network has {wanted}")
            state[name].copy_(tensor)
        silent = [head for head in ("value_head", "distill_head") if f"{head}.weight" not in self.weights]
        for head in silent:
            module: Any = getattr(network, head)
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        if missing := [name for name in state if name not in self.weights and name.partition(".")[0] not in silent]:
            raise ImportedFileError(f"the file has nothing for {', '.join(missing)[:200]}")
        return network.eval().requires_grad_(False)


def layers(state: Mapping[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of a ``torch.nn.Sequential``, in its order.

    Args:
        state: of a whole policy.
        prefix: name of the sequence; empty where the state is the sequence's.

    Raises:
        ImportedFileError: a layer without bias.
    """
    start = f"{prefix}." if prefix else ""
    names = (name.removeprefix(start).removesuffix(".weight") for name in state if name.startswith(start))
    found = sorted(int(name) for name in names if name.isdecimal())
    if alone := [index for index in found if f"{start}{index}.bias" not in state]:
        raise ImportedFileError(f"{start}{alone[0]} has no bias; only layers with one are open")
    return [(state[f"{start}{index}.weight"], state[f"{start}{index}.bias"]) for index in found]


def named(pairs: list[tuple[Tensor, Tensor]], prefix: str, first: int) -> dict[str, Tensor]:
    """The same under the names of one of this project's sequences, where an activation follows every layer.

    Args:
        pairs: weights and biases.
        prefix: of the sequence.
        first: index of the first layer in it.
    """
    weights = {}
    for index, (weight, bias) in enumerate(pairs):
        weights[f"{prefix}.{first + 2 * index}.weight"] = weight
        weights[f"{prefix}.{first + 2 * index}.bias"] = bias
    return weights


def widths(pairs: list[tuple[Tensor, Tensor]]) -> tuple[int, ...]:
    """Of fully connected layers, in units."""
    return tuple(len(bias) for _, bias in pairs)


def convolutional(
    convolutions: list[tuple[Tensor, Tensor]], strides: tuple[int, ...], linear: list[tuple[Tensor, Tensor]]
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[int, int, int]]:
    """Unpadded convolutions of square pictures and fully connected layers, as the trunk ``nature`` has them.

    Args:
        convolutions: weights and biases.
        strides: of each, which weights do not tell.
        linear: weights and biases of what follows, at least one layer.

    Returns:
        Options of the network, its weights, and the shape of the pictures, [C, H, W].

    Raises:
        ImportedFileError: layers that fit no square picture.
    """
    if len(convolutions) != len(strides) or not linear or any(weight.dim() != 4 for weight, _ in convolutions):
        raise ImportedFileError(f"{len(convolutions)} convolutions before {len(linear)} layers are no known network")
    kinds = tuple((len(bias), weight.shape[2], by) for (weight, bias), by in zip(convolutions, strides, strict=True))
    side = _side(linear, kinds[-1][0], lambda side: _after(side, kinds))
    first = 2 * len(kinds) + 1
    options = {"trunk": "nature", "convolutions": kinds, "hidden": widths(linear)}
    weights = {**named(convolutions, "trunk", 0), **named(linear, "trunk", first)}
    return options, weights, (convolutions[0][0].shape[1], side, side)


def impala(
    convolutions: list[tuple[Tensor, Tensor]], linear: list[tuple[Tensor, Tensor]]
) -> tuple[dict[str, Any], dict[str, Tensor], tuple[int, int, int]]:
    """The deep network of Espeholt et al. 2018, as the trunk ``impala`` has it; returns as ``convolutional``.

    Args:
        convolutions: weights and biases, five in each of three stages: the first, and two of each residual block.
        linear: weights and biases of what follows, at least one layer.

    Raises:
        ImportedFileError: other convolutions, or layers that fit no square picture.
    """
    maps = [len(bias) for _, bias in convolutions]
    if maps != [stage for stage in IMPALA for _ in range(5)] or not linear:
        raise ImportedFileError(f"convolutions of {maps} feature maps before {len(linear)} layers are no known network")
    weights: dict[str, Tensor] = {}
    for index, (weight, bias) in enumerate(convolutions):
        stage, part = divmod(index, 5)
        name = f"trunk.{4 * stage + (0, 2, 2, 3, 3)[part]}{('', '.body.1', '.body.3', '.body.1', '.body.3')[part]}"
        weights |= {f"{name}.weight": weight, f"{name}.bias": bias}
    side = _side(linear, IMPALA[-1], lambda side: -(-side // 8))  # each stage halves it, rounded up
    options = {"trunk": "impala", "hidden": widths(linear)}
    return options, {**weights, **named(linear, "trunk", 14)}, (convolutions[0][0].shape[1], side, side)


def _side(linear: list[tuple[Tensor, Tensor]], maps: int, after: Callable[[int], int]) -> int:
    """A side of pictures that gives so many features, in pixels: a usual one, or else the least."""
    read = linear[0][0].shape[1]
    sides: tuple[int, ...] = (*USUAL, *range(8, 400))
    for side in sides:
        if maps * after(side) ** 2 == read:
            return side
    raise ImportedFileError(f"the first layer reads {read} features, as of no square picture")


def _after(side: int, kinds: tuple[tuple[int, int, int], ...]) -> int:
    for _, kernel, stride in kinds:
        side = (side - kernel) // stride + 1 if side >= kernel else 0
    return side
