"""The policy/value network with its distillation layer, and the deep alignment network (spec section 2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cdrl_pl.checks import ConfigError
from cdrl_pl.class_paths import is_class_path
from cdrl_pl.memory import Memory, remember_rollout, remember_step
from cdrl_pl.normaliser import Normaliser
from cdrl_pl.trunks import ONNX, NetworkConfig, build_trunk, fully_connected
from cdrl_pl.types import PolicyOutput

__all__ = ["ONNX", "AlignmentNetwork", "NetworkConfig", "PolicyNetwork"]


class PolicyNetwork(nn.Module):
    """Trunk, memory, and three heads: policy, value and distillation.

    The recurrent state of B copies is one tensor [B, S]: of an LSTM hidden and cell side by side, S = 2 x its width; of
    a GRU S = its width; without memory S = 0.
    It is zeroed before every row whose ``resets`` is set, that is, exactly where an episode begins.

    Args:
        config: structure.
        obs_shape: of one observation: [C, H, W] of an image, [N] of a vector.
        num_actions: number of actions, A.
    """

    def __init__(self, config: NetworkConfig, obs_shape: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        self.config, self.obs_shape, self.num_actions = config, tuple(obs_shape), num_actions
        self.state_size = 2 * config.lstm or config.gru
        self.trunk, features = build_trunk(config, self.obs_shape)
        self._sees = next(self.trunk.parameters(), None) is not None
        self.value_trunk = build_trunk(config, self.obs_shape)[0] if config.value == "own" else None
        self.normaliser = Normaliser(self.obs_shape, config.clip) if config.normalise else None
        self.lstm = nn.LSTM(features, config.lstm) if config.lstm else None
        self.gru = nn.GRU(features, config.gru) if config.gru else None
        remembered = config.lstm or config.gru or features
        layers = fully_connected(config.after, remembered, config.activation)
        self.after = nn.Sequential(*layers) if layers else None
        width = (remembered, *config.after)[-1]
        self.policy_head = nn.Linear(width, num_actions)
        self.value_head = nn.Linear(width, 1)
        self.distill_head = nn.Linear(width, num_actions)
        self._initialise()
        if config.trunk in ("conv", "residual", "nature", "impala"):
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Keeps what differs between two observations visible at the LSTM.

        PyTorch's default shrinks it at every layer: on Pong's screens the trunk's features then differ by 0.001 between
        states, beside a constant of 0.04 that the background gives. Here the first filters of an image trunk sum to
        zero, so a plain background gives nothing, and are 5 times orthogonal: the features differ by about 0.06.
        A trunk of the user's own starts as it was made.
        """
        made = () if is_class_path(self.config.trunk) else (self.trunk, self.value_trunk)
        for trunk in filter(None, (*made, self.after)):
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

    @property
    def memory(self) -> Memory | None:
        """The LSTM or GRU, where there is one."""
        return self.gru if self.lstm is None else self.lstm

    def _see(self, obs: Tensor, trunk: nn.Module) -> Tensor:
        """A trunk's features [N, D] of obs [N, *observation]."""
        reads = trunk if self._sees else (self.memory or self)  # a trunk without layers passes observations on
        dtype = next(reads.parameters()).dtype
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
        if self.memory is not None:
            hidden, state = remember_rollout(self.memory, hidden, state, resets)
        return self._reasoned(hidden.float()), state

    def _reasoned(self, hidden: Tensor) -> Tensor:
        """The features behind the memory that the heads read."""
        if self.after is None:
            return hidden
        with torch.autocast(hidden.device.type, enabled=False):
            layered: Tensor = self.after(hidden)
        return layered

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
        if self.memory is not None:
            hidden, state = remember_step(self.memory, hidden, state)
        hidden = self._reasoned(hidden.float())
        valued = self._valued(obs, hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.policy_head(hidden), self.value_head(valued).squeeze(-1), state

    def tensors(self) -> list[Tensor]:
        """All that decides what it says, in a fixed order: its parameters, and the statistics that it reads by."""
        return [*self.parameters(), *self.buffers()]

    def to_bf16(self) -> PolicyNetwork:
        """Trunk and memory in bfloat16, heads in fp32: autocast would cast every weight at every step."""
        self.trunk.bfloat16()
        for part in filter(None, (self.value_trunk, self.memory)):
            part.bfloat16()
        return self


class AlignmentNetwork(nn.Module):
    """F: a teacher's k_alpha logits to a student's k_beta (paper section 4.3; the program: 4 x 512, then linear).

    Args:
        inputs: number of what it reads of the teacher: of its logits, k_alpha, of its features, or of both.
        student_actions: number of the student's actions, k_beta; it may differ.
        hidden: width of every hidden layer, in units.
        depth: number of hidden layers.
        activation: "relu" (text) or "elu" (program).
    """

    def __init__(
        self,
        inputs: int,
        student_actions: int,
        hidden: int = 512,
        depth: int = 4,
        activation: Literal["relu", "elu"] = "relu",
    ) -> None:
        super().__init__()
        if activation not in ("relu", "elu"):
            raise ConfigError(f"activation is {activation!r}; it must be relu or elu")
        self.inputs, self.hidden, self.depth, self.activation = inputs, hidden, depth, activation
        layers: list[nn.Module] = []
        width = inputs
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), nn.ReLU() if activation == "relu" else nn.ELU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, student_actions))

    def forward(self, read: Tensor) -> Tensor:
        """[..., inputs] -> [..., k_beta], fp32."""
        aligned: Tensor = self.layers(read).float()
        return aligned
