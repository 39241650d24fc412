"""The actor: the one small interface between a worker and the policy it plays."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from cdrl_pl.distributions import sample
from cdrl_pl.envs import EnvSpec
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.onnx.network import build_network
from cdrl_pl.rollouts.shared_memory import SharedWeights
from cdrl_pl.types import masked

Array = np.ndarray[Any, Any]


class Actor(Protocol):
    """Decides for the B copies of one worker and keeps their recurrent state [B, S]."""

    state: torch.Tensor

    def refresh(self) -> int:
        """Takes the newest weights; returns their version."""

    def act(self, obs: Array, resets: Array, masks: Array | None = None) -> tuple[Array, Array]:
        """Sampled actions [B] int64, or [B, K] where K choices are made, and their log probabilities [B].

        Args:
            obs: [B, *observation].
            resets: [B].
            masks: which actions may be played, [B, A]; None: all of them.
        """

    def values(self, obs: Array, copies: Array) -> Array:
        """Values of the last observations ``obs`` [N, *observation] of the copies with these indices [N]."""


class LocalActor:
    """A copy of the policy inside the worker, on one thread.

    Chosen over batched inference beside the learner by measurement (docs/performance.md): no hand-over per step.

    Args:
        network: structure of the policy network.
        spec: of the task.
        weights: shared memory with the newest weights.
        copies: environment copies, B.
        rng: for sampling actions.
        bf16: whether trunk and memory act in bfloat16.
    """

    def __init__(
        self,
        network: NetworkConfig,
        spec: EnvSpec,
        weights: SharedWeights,
        copies: int,
        rng: np.random.Generator,
        bf16: bool = False,
    ) -> None:
        self._network = build_network(network, spec.obs_shape, spec.num_actions).eval().requires_grad_(False)
        if bf16:
            self._network.to_bf16()
        self._weights, self._rng, self._counts = weights, rng, spec.action_counts
        self._flat = np.empty(sum(t.numel() for t in self._network.tensors()), np.float32)
        self._version: int | None = None
        self.state = self._network.initial_state(copies)

    def refresh(self) -> int:
        """Takes the newest weights, cast once here where they are bf16; returns their version."""
        version = self._weights.read(self._flat)
        if version != self._version:
            flat, offset = torch.from_numpy(self._flat), 0
            for tensor in self._network.tensors():
                tensor.copy_(flat[offset : offset + tensor.numel()].view(tensor.shape))
                offset += tensor.numel()
            self._version = version
        return version

    @torch.inference_mode()
    def act(self, obs: Array, resets: Array, masks: Array | None = None) -> tuple[Array, Array]:
        logits, _, self.state = self._network.act(torch.from_numpy(obs), self.state, torch.from_numpy(resets))
        if masks is not None:
            logits = masked(logits, torch.from_numpy(masks))
        draws = self._rng.random((len(obs), len(self._counts)) if self._counts else len(obs))
        return sample(logits.numpy(), draws, self._counts)

    @torch.inference_mode()
    def values(self, obs: Array, copies: Array) -> Array:
        resets = torch.zeros(len(copies), dtype=torch.bool)
        _, values, _ = self._network.act(torch.from_numpy(obs).clone(), self.state[torch.from_numpy(copies)], resets)
        return values.numpy()
