"""Structure of a network, and the trunks that read observations (spec section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.class_paths import is_class_path, made

TRUNKS = ("conv", "residual", "nature", "impala", "mlp")
ONNX = "onnx"  # a graph in a file is the whole policy: of certificates and of an agent's policy alone
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # in place, ELU's gradient comes from its output, without another exp
    "elu": lambda: nn.ELU(inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "tanh": nn.Tanh,
}


NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # feature maps, kernel and stride: Mnih et al. 2015
IMPALA = (16, 32, 32)  # feature maps of its three stages
_NATURE = str([list(layer) for layer in NATURE])


@dataclass
class NetworkConfig:
    """Structure of one agent's network; teacher and student need not share it.

    Attributes:
        trunk: "conv" is the paper's (3x3 convolutions, stride 2, ELU), "residual" has the same stages with a residual
            block each, "nature" is that of Mnih et al. 2015 (for pictures of 36 pixels and more), "impala" the deep
            one of Espeholt et al. 2018, "mlp" is for vector observations; or the class path of a torch module of your
            own, made as Trunk(obs_shape, **trunk_options), which gives features [N, D] of float32 observations [N,
            *obs_shape].
        channels: Feature maps of every convolution (nature and impala have their own).
        depth: Number of convolutions (stages), or of fully connected layers of the MLP (nature and impala have their
            own).
        hidden: Width of every layer of the MLP, and of the last one of nature and impala, in units; or a list with the
            width of each of these layers, which then says how many there are.
        lstm: Width of the LSTM, in units; 0 is a network without it.
        gru: Width of a GRU in the LSTM's place (lstm 0), in units; 0 is a network without it.
        after: Widths of fully connected layers between the memory and the heads, in units.
        convolutions: Feature maps, side of the kernel and stride of every convolution of nature, none of them padded.
        activation: "elu" (the paper's), "relu" or "tanh", after every convolution and layer but the heads.
        value: "shared" reads the value off the policy's features (the paper's), "own" has a trunk of the same structure
            for it; only without memory.
        normalise: Reads every number of an observation in units of its mean and standard deviation over all that the
            agent has learned from. These are kept with its weights: in checkpoints, and, as they were last, in its
            certificate.
        clip: Standard deviations beyond which a normalised number is cut off.
        trunk_options: Keywords of a trunk of your own.
    """

    trunk: str = "conv"
    channels: int = 32
    depth: int = 4
    hidden: int | tuple[int, ...] = 256
    lstm: int = 256
    gru: int = 0
    after: tuple[int, ...] = ()
    convolutions: tuple[tuple[int, int, int], ...] = NATURE
    activation: Literal["elu", "relu", "tanh"] = "elu"
    value: Literal["shared", "own"] = "shared"
    normalise: bool = False
    clip: float = 10.0
    trunk_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = (("channels", 1), ("depth", 1), ("lstm", 0), ("gru", 0))
        named = is_class_path(self.trunk) or self.trunk == ONNX
        hidden = self.hidden if isinstance(self.hidden, tuple) else (self.hidden,)
        rows = [
            ("trunk", named or self.trunk in TRUNKS, f"{', '.join(TRUNKS)}, or the class path of a torch module"),
            ("trunk_options", named or not self.trunk_options, "empty, but for a trunk by class path"),
            ("activation", self.activation in ACTIVATIONS, " or ".join(ACTIVATIONS)),
            ("value", self.value in ("shared", "own"), "shared or own"),
            ("value", self.value == "shared" or not (self.lstm or self.gru), "shared, but for lstm 0 and gru 0"),
            ("value", self.value == "shared" or not self.after, "shared, but for after []"),
            ("gru", not (self.gru and self.lstm), "0, but for lstm 0"),
            ("hidden", min(hidden, default=1) >= 1, "1 or more, or a list of such widths"),
            (
                "hidden",
                isinstance(self.hidden, int) or self.trunk in ("mlp", "nature", "impala"),
                "one width, but for mlp, nature and impala",
            ),
            ("after", min(self.after, default=1) >= 1, "a list of widths, each 1 or more"),
            (
                "convolutions",
                self.convolutions == NATURE or self.trunk == "nature",
                f"{_NATURE}, but for the trunk nature",
            ),
            (
                "convolutions",
                all(len(c) == 3 and min(c) >= 1 for c in self.convolutions) and bool(self.convolutions),
                "a list of [feature maps, kernel, stride], each 1 or more",
            ),
            ("clip", self.clip > 0, "above 0"),
            ("clip", self.clip == 10.0 or self.normalise, "10.0, but for normalise true"),
        ]
        rows += [(name, getattr(self, name) >= least, f"{least} or more") for name, least in sizes]
        check_options("network.", self, rows)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the fully connected layers of a trunk that has them."""
        if isinstance(self.hidden, tuple):
            return self.hidden
        return (self.hidden,) * (self.depth if self.trunk == "mlp" else 1)


def fully_connected(widths: tuple[int, ...], read: int, activation: str) -> list[nn.Module]:
    """Layers of these widths, each with its activation behind it.

    Args:
        widths: of every layer, in units.
        read: numbers that the first one reads.
        activation: one of ``ACTIVATIONS``.
    """
    layers: list[nn.Module] = []
    for before, width in pairwise((read, *widths)):
        layers += [nn.Linear(before, width), ACTIVATIONS[activation]()]
    return layers


class _Residual(nn.Module):
    def __init__(self, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        first = activation()
        first.inplace = False  # type: ignore[assignment]  # what it reads is added to the result
        self.body = nn.Sequential(
            first,
            nn.Conv2d(channels, channels, 3, padding=1),
            activation(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def build_trunk(config: NetworkConfig, obs_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The trunk for observations of ``obs_shape`` ([C, H, W] or [N]) and the number of its features.

    Raises:
        ConfigError: where the trunk cannot read such observations.
    """
    if is_class_path(config.trunk):
        return _own_trunk(config, obs_shape)
    if config.trunk == ONNX:
        raise ConfigError("network.trunk is onnx, which does not learn; a graph is an agent's policy or certificate")
    images = len(obs_shape) == 3
    if images == (config.trunk == "mlp"):
        allowed = "conv, residual, nature or impala" if images else "mlp"
        raise ConfigError(f"network.trunk is {config.trunk}; observations of shape {obs_shape} need {allowed}")
    layers: list[nn.Module] = []
    activation = ACTIVATIONS[config.activation]
    if config.trunk == "mlp":
        read = math.prod(obs_shape)
        layers = fully_connected(config.widths, read, config.activation)
        return nn.Sequential(nn.Flatten(), *layers), (read, *config.widths)[-1]
    channels, height, width = obs_shape
    if config.trunk in ("nature", "impala"):
        return (_nature if config.trunk == "nature" else _impala)(config, obs_shape)
    for _ in range(config.depth):
        layers.append(nn.Conv2d(channels, config.channels, 3, stride=2, padding=1))
        if config.trunk == "residual":
            layers.append(_Residual(config.channels, activation))
        layers.append(activation())
        channels, height, width = config.channels, (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(*layers, nn.Flatten()), channels * height * width


def _nature(config: NetworkConfig, obs_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    channels, *sides = obs_shape
    layers: list[nn.Module] = []
    for filters, kernel, stride in config.convolutions:
        layers += [nn.Conv2d(channels, filters, kernel, stride), ACTIVATIONS[config.activation]()]
        channels, sides = filters, [(side - kernel) // stride + 1 for side in sides]
    if min(sides) < 1:
        raise ConfigError(f"network.trunk is nature; observations of shape {obs_shape} are too small for it")
    read = channels * math.prod(sides)
    layers += [nn.Flatten(), *fully_connected(config.widths, read, config.activation)]
    return nn.Sequential(*layers), (read, *config.widths)[-1]


def _impala(config: NetworkConfig, obs_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """Three stages of a convolution, a maximum over 3 x 3 at every other place, and two residual blocks."""
    channels, height, width = obs_shape
    activation = ACTIVATIONS[config.activation]
    layers: list[nn.Module] = []
    for maps in IMPALA:
        layers += [nn.Conv2d(channels, maps, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [_Residual(maps, activation), _Residual(maps, activation)]
        channels, height, width = maps, (height + 1) // 2, (width + 1) // 2
    read = channels * height * width
    layers += [nn.Flatten(), activation(), *fully_connected(config.widths, read, config.activation)]
    return nn.Sequential(*layers), (read, *config.widths)[-1]


def _own_trunk(config: NetworkConfig, obs_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    trunk = made("network.trunk", config.trunk, config.trunk_options, obs_shape)
    wrong = f"network.trunk is {config.trunk!r}, which"
    if not isinstance(trunk, nn.Module):
        raise ConfigError(f"{wrong} makes a {type(trunk).__name__}; it must be a torch.nn.Module")
    if next(trunk.parameters(), None) is None:
        raise ConfigError(f"{wrong} has no parameters; it must have some")
    before = [buffer.clone() for buffer in trunk.buffers()]
    with torch.no_grad():
        features = trunk(torch.zeros(2, *obs_shape))
    if not isinstance(features, Tensor) or features.dim() != 2 or features.shape[0] != 2:
        shown = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise ConfigError(f"{wrong} gives {shown} of observations (2, {str(obs_shape)[1:]}; it must be (2, D)")
    if not all(torch.equal(old, new) for old, new in zip(before, trunk.buffers(), strict=True) if not old.is_meta):
        raise ConfigError(
            f"{wrong} changes buffers as it reads (batch normalisation?), so that what it says hangs on what was read "
            "before; LayerNorm and the like do not"
        )
    return trunk, features.shape[1]
