"""The policy/value network with its distillation layer, and the deep alignment network (spec section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdrl_pl.checks import ConfigError, check_options
from cdrl_pl.class_paths import is_class_path, made
from cdrl_pl.normaliser import Normaliser
from cdrl_pl.types import PolicyOutput

TRUNKS = ("conv", "residual", "mlp")
ONNX = "onnx"  # a graph in a file is the whole policy: of certificates and of an agent's policy alone
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # in place, ELU's gradient comes from its output, without another exp
    "elu": lambda: nn.ELU(inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "tanh": nn.Tanh,
}


@dataclass
class NetworkConfig:
    """Structure of one agent's network; teacher and student need not share it.

    Attributes:
        trunk: "conv" is the paper's (3x3 convolutions, stride 2, ELU), "residual" has the same stages with a residual
            block each, "mlp" is for vector observations; or the class path of a torch module of your own, made as
            Trunk(obs_shape, **trunk_options), which gives features [N, D] of float32 observations [N, *obs_shape].
        channels: Feature maps of every convolution.
        depth: Number of convolutions (stages), or of fully connected layers of the MLP.
        hidden: Width of every layer of the MLP, in units.
        lstm: Width of the LSTM, in units; 0 is a network without memory.
        activation: "elu" (the paper's), "relu" or "tanh", after every convolution and layer of the trunk.
        value: "shared" reads the value off the policy's features (the paper's), "own" has a trunk of the same structure
            for it; only without memory.
        normalise: Reads vectors in units of their mean and standard deviation over all that the agent has learned from.
            These are kept with its weights: in checkpoints, and, as they were last, in its certificate.
        trunk_options: Keywords of a trunk of your own.
    """

    trunk: str = "conv"
    channels: int = 32
    depth: int = 4
    hidden: int = 256
    lstm: int = 256
    activation: Literal["elu", "relu", "tanh"] = "elu"
    value: Literal["shared", "own"] = "shared"
    normalise: bool = False
    trunk_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = (("channels", 1), ("depth", 1), ("hidden", 1), ("lstm", 0))
        named = is_class_path(self.trunk) or self.trunk == ONNX
        rows = [
            ("trunk", named or self.trunk in TRUNKS, f"{', '.join(TRUNKS)}, or the class path of a torch module"),
            ("trunk_options", named or not self.trunk_options, "empty, but for a trunk by class path"),
            ("activation", self.activation in ACTIVATIONS, " or ".join(ACTIVATIONS)),
            ("value", self.value in ("shared", "own"), "shared or own"),
            ("value", self.value == "shared" or not self.lstm, "shared, but for lstm 0"),
            ("normalise", not self.normalise or self.trunk == "mlp", "false but for the trunk mlp"),
        ]
        rows += [(name, getattr(self, name) >= least, f"{least} or more") for name, least in sizes]
        check_options("network.", self, rows)


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
        allowed = "conv or residual" if images else "mlp"
        raise ConfigError(f"network.trunk is {config.trunk}; observations of shape {obs_shape} need {allowed}")
    layers: list[nn.Module] = []
    activation = ACTIVATIONS[config.activation]
    if config.trunk == "mlp":
        width = math.prod(obs_shape)
        for _ in range(config.depth):
            layers += [nn.Linear(width, config.hidden), activation()]
            width = config.hidden
        return nn.Sequential(nn.Flatten(), *layers), width
    channels, height, width = obs_shape
    for _ in range(config.depth):
        layers.append(nn.Conv2d(channels, config.channels, 3, stride=2, padding=1))
        if config.trunk == "residual":
            layers.append(_Residual(config.channels, activation))
        layers.append(activation())
        channels, height, width = config.channels, (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(*layers, nn.Flatten()), channels * height * width


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


class PolicyNetwork(nn.Module):
    """Trunk, LSTM, and three heads: policy, value and distillation.

    The recurrent state of B copies is one tensor [B, S]: hidden and cell side by side, S = 2 x LSTM width, or S = 0.
    It is zeroed before every row whose ``resets`` is set, that is, exactly where an episode begins.

    Args:
        config: structure.
        obs_shape: of one observation: [C, H, W] of an image, [N] of a vector.
        num_actions: number of actions, A.
    """

    def __init__(self, config: NetworkConfig, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        self.config, self.obs_shape, self.num_actions = config, tuple(obs_shape), num_actions
        self.state_size = 2 * config.lstm
        self.trunk, features = build_trunk(config, self.obs_shape)
        self.value_trunk = build_trunk(config, self.obs_shape)[0] if config.value == "own" else None
        self.normaliser = Normaliser(math.prod(obs_shape)) if config.normalise else None
        self.lstm = nn.LSTM(features, config.lstm) if config.lstm else None
        width = config.lstm or features
        self.policy_head = nn.Linear(width, num_actions)
        self.value_head = nn.Linear(width, 1)
        self.distill_head = nn.Linear(width, num_actions)
        self._initialise()
        if config.trunk in ("conv", "residual"):
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Keeps what differs between two observations visible at the LSTM.

        PyTorch's default shrinks it at every layer: on Pong's screens the trunk's features then differ by 0.001 between
        states, beside a constant of 0.04 that the background gives. Here the first filters of an image trunk sum to
        zero, so a plain background gives nothing, and are 5 times orthogonal: the features differ by about 0.06.
        A trunk of the user's own starts as it was made.
        """
        for trunk in () if is_class_path(self.config.trunk) else filter(None, (self.trunk, self.value_trunk)):
            for module in trunk.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.orthogonal_(module.weight, math.sqrt(2.0))
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            first = next(trunk.children())
            if isinstance(first, nn.Conv2d):
                first.weight.sub_(first.weight.mean((1, 2, 3), keepdim=True)).mul_(5.0)
        if self.lstm is not None:
            forget = slice(self.config.lstm, 2 * self.config.lstm)
            self.lstm.get_parameter("bias_ih_l0")[forget] = 1.0  # forget gates start open
        for head in (self.policy_head, self.value_head, self.distill_head):
            head.weight.mul_(0.05)  # start near the uniform policy and a value of 0
            head.bias.zero_()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def initial_state(self, copies: int, device: torch.device | str = "cpu") -> Tensor:
        """Zeros [B, S]."""
        return torch.zeros(copies, self.state_size, device=device)

    def _see(self, obs: Tensor, trunk: nn.Module) -> Tensor:
        """A trunk's features [N, D] of obs [N, *observation]."""
        dtype = next(trunk.parameters()).dtype
        if self.normaliser is not None:
            obs = self.normaliser(obs)
        features: Tensor = trunk(obs.to(dtype).div_(255.0) if obs.dtype == torch.uint8 else obs.to(dtype))
        return features

    def _valued(self, obs: Tensor, hidden: Tensor) -> Tensor:
        """What the value is read off: the policy's features ``hidden``, or those [*, D] of its own trunk."""
        if self.value_trunk is None:
            return hidden
        features = self._see(obs, self.value_trunk).float()
        return features.view(*hidden.shape[:-1], -1)

    def features(self, obs: Tensor, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """obs [T, B, *obs], state [B, S], resets [T, B] (on the host) -> features [T, B, D] after the memory, state."""
        steps, copies = resets.shape
        hidden = self._see(obs.flatten(0, 1), self.trunk).view(steps, copies, -1)
        if self.lstm is None:
            return hidden.float(), state
        width = self.config.lstm
        begins: Any = resets.numpy().any(1).tolist()
        cuts = [0, *(t for t in range(1, steps) if begins[t]), steps]
        outputs = []
        for start, end in pairwise(cuts):  # one LSTM call between resets, not one per step
            if begins[start]:
                state = state.masked_fill(resets[start].to(state.device).unsqueeze(-1), 0.0)
            h, c = state[:, :width].contiguous().unsqueeze(0), state[:, width:].contiguous().unsqueeze(0)
            output, (h, c) = self.lstm(hidden[start:end], (h, c))
            outputs.append(output.float())
            state = torch.cat([h[0], c[0]], -1).float()
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), state

    def forward(self, obs: Tensor, state: Tensor, resets: Tensor) -> PolicyOutput:
        """Every head over a rollout.

        Args:
            obs: [T, B, *observation] uint8 (scaled by 1/255 here) or float32.
            state: recurrent state before row 0, [B, S].
            resets: [T, B] bool, on the host.
        """
        hidden, state = self.features(obs, state, resets)
        valued = self._valued(obs.flatten(0, 1), hidden)
        with torch.autocast(hidden.device.type, enabled=False):  # heads in fp32: bf16 logits are too coarse to sample
            return PolicyOutput(
                self.policy_head(hidden), self.distill_head(hidden), self.value_head(valued).squeeze(-1), state
            )

    def act(self, obs: Tensor, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step: obs [B, *observation], state [B, S], resets [B] -> logits [B, A], values [B], state [B, S]."""
        return self.step(obs, state.masked_fill(resets.unsqueeze(-1), 0.0) if self.state_size else state)

    def step(self, obs: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``act``, where no episode begins."""
        hidden = self._see(obs, self.trunk)
        if self.lstm is not None:
            hidden, state = self._remember(hidden, state)
        hidden = hidden.float()
        valued = self._valued(obs, hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.policy_head(hidden), self.value_head(valued).squeeze(-1), state

    def _remember(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the LSTM, x [B, D] -> h [B, W], state [B, S]; the state stays in fp32.

        A third of the cost of ``nn.LSTM`` on a rollout of one step, which prepares its weights anew at every call.
        """
        assert self.lstm is not None
        w_ih, w_hh, b_ih, b_hh = (
            self.lstm.get_parameter(f"{n}_l0") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, c = state.chunk(2, -1)
        gates = (F.linear(x, w_ih, b_ih) + F.linear(h.to(w_hh.dtype), w_hh, b_hh)).float()
        i, f, g, o = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, torch.cat([h, c], -1)

    def tensors(self) -> list[Tensor]:
        """All that decides what it says, in a fixed order: its parameters, and the statistics that it reads by."""
        return [*self.parameters(), *self.buffers()]

    def to_bf16(self) -> PolicyNetwork:
        """Trunk and memory in bfloat16, heads in fp32: autocast would cast every weight at every step."""
        self.trunk.bfloat16()
        if self.value_trunk is not None:
            self.value_trunk.bfloat16()
        if self.lstm is not None:
            self.lstm.bfloat16()
        return self


class AlignmentNetwork(nn.Module):
    """F: a teacher's k_alpha logits to a student's k_beta (paper section 4.3; the program: 4 x 512, then linear).

    Args:
        teacher_actions: number of the teacher's actions, k_alpha.
        student_actions: number of the student's actions, k_beta; it may differ.
        hidden: width of every hidden layer, in units.
        depth: number of hidden layers.
        activation: "relu" (text) or "elu" (program).
    """

    def __init__(
        self,
        teacher_actions: int,
        student_actions: int,
        hidden: int = 512,
        depth: int = 4,
        activation: Literal["relu", "elu"] = "relu",
    ) -> None:
        super().__init__()
        if activation not in ("relu", "elu"):
            raise ConfigError(f"activation is {activation!r}; it must be relu or elu")
        self.hidden, self.depth, self.activation = hidden, depth, activation
        layers: list[nn.Module] = []
        width = teacher_actions
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), nn.ReLU() if activation == "relu" else nn.ELU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, student_actions))

    def forward(self, logits: Tensor) -> Tensor:
        """[..., k_alpha] -> [..., k_beta], fp32."""
        aligned: Tensor = self.layers(logits).float()
        return aligned
