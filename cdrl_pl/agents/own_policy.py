"""A frozen expert of the user's own: a torch module, or an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cdrl_pl.agents.certificated import FrozenAgent
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig, EnvSpec, describe, resolve
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.onnx.network import OnnxNetwork, located
from cdrl_pl.storage.stored import GRAPH


class OwnPolicy(FrozenAgent):
    """A frozen expert without a certificate, in a task that it is given.

    Args:
        path: class path of a torch module, made as ``Policy(obs_shape, **options)``: float32 observations
            [N, *obs_shape] to logits [N, A]; those of images are scaled to 0..1. Or a graph's file, ``FILE.onnx``.
        options: keywords of the module, or how the graph is read; see ``GraphOptions``.
        env: the task it plays, with the view it reads.

    Raises:
        ConfigError: there is no such module, or it gives no logits of that task's actions.
        OnnxError: the file is refused, or its graph is of other observations or actions than the task.
        EnvError: ``env`` cannot be used.
    """

    certificated_at: int | None = None

    def __init__(self, path: str, options: dict[str, Any], env: EnvConfig) -> None:
        super().__init__()
        played, self.env, self.spec = resolve(env), env, describe(env)
        assert played.view is not None
        self.view, self.game = played.view, played.id.rpartition(":")[2]
        self.network = (_graph if path.endswith(GRAPH) else _module)(path, options, self.spec, env.id)
        self.requires_grad_(False)

    def check_playable(self) -> None:
        """Nothing: its task was made to describe it."""


def _graph(path: str, options: dict[str, Any], spec: EnvSpec, task: str) -> PolicyNetwork:
    network = OnnxNetwork(located(Path(path), options), spec.obs_shape, spec.num_actions)
    network.check_observed(spec.obs_dtype)
    return network


@torch.no_grad()
def _module(path: str, options: dict[str, Any], spec: EnvSpec, task: str) -> PolicyNetwork:
    """The module as trunk of a network without memory whose policy head passes the logits on; its values are 0."""
    try:
        network = PolicyNetwork(
            NetworkConfig(trunk=path, trunk_options=options, lstm=0), spec.obs_shape, spec.num_actions
        )
    except ConfigError as error:
        raise ConfigError(str(error).replace("network.trunk", "policy")) from error
    width = network.policy_head.in_features
    if width != spec.num_actions:
        raise ConfigError(f"policy is {path!r}, which gives {width} logits; {task} has {spec.num_actions} actions")
    for head in (network.policy_head, network.distill_head):
        head.weight.copy_(torch.eye(width))
        head.bias.zero_()
    network.value_head.weight.zero_()
    return network
