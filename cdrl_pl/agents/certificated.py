"""A frozen expert that is loaded from its certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn

from cdrl_pl.agents.certificate import load_certificate, named_modules
from cdrl_pl.agents.student import LearnerConfig
from cdrl_pl.checks import ConfigError
from cdrl_pl.class_paths import is_within
from cdrl_pl.envs import EnvConfig, EnvError, EnvSpec, describe, resolve
from cdrl_pl.networks import ONNX, PolicyNetwork
from cdrl_pl.onnx.network import build_network
from cdrl_pl.types import PolicyOutput, Rollout


class FrozenAgent(pl.LightningModule):
    """An agent that does not learn."""

    learner: LearnerConfig | None = None
    begun = ""
    network: PolicyNetwork

    def learning(self, env_steps: int) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def forward(self, rollout: Rollout) -> PolicyOutput:
        """The network over all T+1 rows of a rollout."""
        with torch.no_grad():
            output: PolicyOutput = self.network(rollout.obs, rollout.state, rollout.resets)
        return output.masked(rollout.masks)

    def reinforcement_losses(
        self,
        output: PolicyOutput,
        rollout: Rollout,
        time_limit: Literal["bootstrap", "terminal"] = "bootstrap",
        env_steps: int = 0,
    ) -> None:
        """None: it does not learn."""


class CertificatedAgent(FrozenAgent):
    """A frozen expert from a folder with ``certificate.json`` and its weights or graph; checked on load.

    Args:
        folder: of the teacher, with both files.
        actions: which of its own actions each action plays, by index, some perhaps left out; null: its own.
        env: the task it plays; null: the one it was certificated on.
        trust: packages from which what the certificate names may be imported.

    Raises:
        CertificateError: the folder is not a teacher, or its weights are not those it was certificated with.
        ConfigError: ``actions`` is empty, or names one that it does not have.
        EnvError: ``env`` cannot be used, or the policy does not fit it.
    """

    def __init__(
        self,
        folder: str | Path,
        actions: tuple[int, ...] | None = None,
        env: EnvConfig | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.certificate, weights = load_certificate(folder, trust)
        imported = self.certificate.training.get("imported")
        if isinstance(imported, dict) and (reason := imported.get("forced")):
            rank_zero_warn(f"{folder} was imported by force: {reason}")
        env_steps = self.certificate.training.get("env_steps")
        self.certificated_at: int | None = env_steps if isinstance(env_steps, int) else None
        self.env, self.spec = self._trusted_env(trust), self.certificate.spec
        self.network = build_network(self.certificate.network, self.spec.obs_shape, self.spec.num_actions)
        self.network.load_state_dict(weights)
        if actions is not None:
            self._relabel(actions)
        if env is not None:
            env = _with_own_options(self.env, env)
            own, self.env, self.spec = self.spec, env, describe(env)
            _check_fits(folder, own, env.id, self.spec)
        played = self.env if env is None else resolve(self.env)
        assert played.view is not None  # a certificate's task is resolved
        self.view, self.game = played.view, played.id.rpartition(":")[2]
        self.requires_grad_(False)

    def _trusted_env(self, trust: Sequence[str]) -> EnvConfig:
        """The certificate's task, with the module that registers it and its wrappers where all of them are trusted."""
        env, training = self.certificate.env, self.certificate.training
        named = named_modules(self.certificate)
        if not named or not all(is_within(module, trust) for module, what in named.items() if what != "network.trunk"):
            return env
        module = training.get("module")
        return replace(env, id=f"{module}:{env.id}" if module else env.id, wrappers=tuple(training.get("wrappers", ())))

    def check_playable(self) -> None:
        """Refuses to play a task that a module would have to register, which is not trusted.

        (A teacher whose task is not played needs no such module.)

        Raises:
            EnvError: naming the module, or the wrappers, where the certificate has them.
        """
        wrappers = self.certificate.training.get("wrappers")
        if wrappers and not self.env.wrappers and self.game == self.certificate.env.id:
            raise EnvError(
                f"{self.env.id} was played within the wrappers {wrappers!r}, which are not imported unasked: "
                "name their modules as its trust (--trust A,B beside --teacher), or them as its env.wrappers"
            )
        try:
            resolve(self.env)
        except EnvError as error:
            if (module := self.certificate.training.get("module")) is None:
                raise
            raise EnvError(
                f"{self.env.id} was registered by the module {module!r}, which is not imported unasked: name it as its "
                f"trust (--trust {module} beside --teacher), or both as its env, {module}:{self.env.id}"
            ) from error

    def _relabel(self, actions: tuple[int, ...]) -> None:
        """The same play in the relabelled game: an action that is there n times has 1/n of its probability in each.

        One that is not there is never played, and the others share its probability in proportion to their own.
        """
        count = self.spec.num_actions
        if self.spec.action_counts:
            raise ConfigError(
                f"actions is {list(actions)}, but {self.env.id} makes several choices, of {self.spec.action_counts} "
                "actions; it is for one choice alone"
            )
        if self.network.config.trunk == ONNX:
            raise ConfigError(f"actions is {list(actions)}, but the policy is an ONNX graph, whose actions are its own")
        if not set(actions) or not set(actions) <= set(range(count)):
            raise ConfigError(f"actions is {list(actions)}; it must list some of its own, 0 to {count - 1}")
        own = self.env.actions or range(count)
        self.env = replace(self.env, actions=tuple(own[i] for i in actions))
        self.spec = replace(self.spec, action_meanings=tuple(self.spec.action_meanings[i] for i in actions))
        old, index = self.network, list(actions)
        self.network = PolicyNetwork(old.config, old.obs_shape, len(actions))
        weights = old.state_dict()
        for head in ("policy_head", "distill_head"):
            share = torch.tensor([float(actions.count(i)) for i in actions]).log()
            weights[f"{head}.weight"] = weights[f"{head}.weight"][index]
            weights[f"{head}.bias"] = weights[f"{head}.bias"][index] - share
        self.network.load_state_dict(weights)


def _with_own_options(certificated: EnvConfig, given: EnvConfig) -> EnvConfig:
    """The task that is given, seen as in the certificate's; where it is the same, all that is not given is its own."""
    if given.id.rpartition(":")[2] != certificated.id.rpartition(":")[2]:
        return replace(given, view=given.view or certificated.view)
    plain = EnvConfig(given.id)
    changed = {f.name: v for f in fields(given) if (v := getattr(given, f.name)) != getattr(plain, f.name)}
    return replace(certificated, **{**changed, "id": given.id if ":" in given.id else certificated.id})


def _check_fits(folder: str | Path, policy: EnvSpec, task: str, env: EnvSpec) -> None:
    if env.obs_shape != policy.obs_shape or env.obs_dtype != policy.obs_dtype:
        raise EnvError(
            f"the policy of {folder} reads {policy.obs_dtype} observations of shape {policy.obs_shape}, "
            f"{task} gives {env.obs_dtype} of shape {env.obs_shape}; they must be equal"
        )
    if (env.num_actions, env.action_counts) != (policy.num_actions, policy.action_counts):
        raise EnvError(
            f"the policy of {folder} chooses among {policy.num_actions} actions ({', '.join(policy.action_meanings)}), "
            f"{task} has {env.num_actions} ({', '.join(env.action_meanings)}); their numbers must be equal"
        )
