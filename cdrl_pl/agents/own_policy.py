"""A frozen expert that is a torch module of the user's own."""

from __future__ import annotations

from typing import Any

import torch

from cdrl_pl.agents.certificated import FrozenAgent
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig, describe, resolve
from cdrl_pl.networks import NetworkConfig, PolicyNetwork


class OwnPolicy(FrozenAgent):
    """A frozen expert that is a torch module of the user's own, which gives logits of observations.

    It is the trunk of a network without memory whose policy head passes the logits on; its values are 0.

    Args:
        path: class path of the module, made as ``Policy(obs_shape, **options)``: float32 observations [N, *obs_shape]
            to logits [N, A]. Observations of images are scaled to 0..1.
        options: keywords of the module.
        env: the task it plays, with the view it reads.

    Raises:
        ConfigError: there is no such module, or it gives no logits of that task's actions.
        EnvError: ``env`` cannot be used.
    """

    certificated_at: int | None = None

    def __init__(self, path: str, options: dict[str, Any], env: EnvConfig) -> None:
        super().__init__()
        played, self.env, self.spec = resolve(env), env, describe(env)
        assert played.view is not None
        self.view, self.game = played.view, played.id.rpartition(":")[2]
        config = NetworkConfig(trunk=path, trunk_options=options, lstm=0)
        try:
            self.network = PolicyNetwork(config, self.spec.obs_shape, self.spec.num_actions)
        except ConfigError as error:
            raise ConfigError(str(error).replace("network.trunk", "policy")) from error
        width = self.network.policy_head.in_features
        if width != self.spec.num_actions:
            raise ConfigError(
                f"policy is {path!r}, which gives {width} logits; {env.id} has {self.spec.num_actions} actions"
            )
        with torch.no_grad():
            for head in (self.network.policy_head, self.network.distill_head):
                head.weight.copy_(torch.eye(width))
                head.bias.zero_()
            self.network.value_head.weight.zero_()
        self.requires_grad_(False)

    def check_playable(self) -> None:
        """Nothing: its task was made to describe it."""
