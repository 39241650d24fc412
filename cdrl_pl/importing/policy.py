"""A policy of another library, as this project's own network, and what is known of where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cdrl_pl.importing.archive import ImportedFileError
from cdrl_pl.networks import NetworkConfig, PolicyNetwork


@dataclass(frozen=True)
class ImportedPolicy:
    """Weights under the names that this project's network has.

    Attributes:
        network: structure.
        obs_shape: of one observation, as the policy reads it: [C, H, W] or [N].
        num_actions: number of actions, A.
        weights: by name; what a policy has no part for (values of a Q-network, distillation) is not in it.
        origin: format, library, version, algorithm and checksum, in plain JSON.
    """

    network: NetworkConfig
    obs_shape: tuple[int, ...]
    num_actions: int
    weights: dict[str, Tensor]
    origin: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def build(self) -> PolicyNetwork:
        """The network; heads that the policy has nothing for say nothing: 0 in every state.

        Raises:
            ImportedFileError: a tensor that the structure has no place for.
        """
        network = PolicyNetwork(self.network, self.obs_shape, self.num_actions)
        state = network.state_dict()
        for name, tensor in self.weights.items():
            if name not in state or state[name].shape != tensor.shape:
                wanted = tuple(state[name].shape) if name in state else "no such tensor"
                raise ImportedFileError(f"{name} has the shape {tuple(tensor.shape)}; the network has {wanted}")
            state[name].copy_(tensor)
        for head in ("value_head", "distill_head"):
            if f"{head}.weight" not in self.weights:
                module: Any = getattr(network, head)
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        return network.eval().requires_grad_(False)


def layers(state: Mapping[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of a ``torch.nn.Sequential``, in its order.

    Args:
        state: of a whole policy.
        prefix: name of the sequence.
    """
    found = sorted(
        int(name.removeprefix(f"{prefix}.").removesuffix(".weight"))
        for name in state
        if name.startswith(f"{prefix}.") and name.removeprefix(f"{prefix}.").removesuffix(".weight").isdecimal()
    )
    return [(state[f"{prefix}.{index}.weight"], state[f"{prefix}.{index}.bias"]) for index in found]


def named(pairs: list[tuple[Tensor, Tensor]], prefix: str, first: int) -> dict[str, Tensor]:
    """The same under the names of one of this project's trunks, where an activation follows every layer.

    Args:
        pairs: weights and biases.
        prefix: of the trunk.
        first: index of the first layer in it.
    """
    weights = {}
    for index, (weight, bias) in enumerate(pairs):
        weights[f"{prefix}.{first + 2 * index}.weight"] = weight
        weights[f"{prefix}.{first + 2 * index}.bias"] = bias
    return weights


def width_of(pairs: list[tuple[Tensor, Tensor]], what: str) -> int:
    """The width of hidden layers that are equally wide.

    Args:
        pairs: weights and biases, at least one.
        what: they are, for the message.

    Raises:
        ImportedFileError: their widths differ.
    """
    widths = [len(bias) for _, bias in pairs]
    if len(set(widths)) != 1:
        raise ImportedFileError(f"{what} has layers of {', '.join(map(str, widths))} units; only equal widths are open")
    return widths[0]
