"""The teacher: reads the student's observations with a recurrent state of its own, and says what it would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from cdrl_pl.certificate import load_certificate
from cdrl_pl.envs import EnvConfig, EnvError, EnvSpec, describe
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.types import PolicyOutput, Rollout


class CertificatedAgent(pl.LightningModule):
    """A frozen expert from a folder with ``weights.safetensors`` and ``certificate.json``; checked on load.

    Args:
        folder: with both files. actions: as which of its own each action plays; null: its own.
        env: the task it plays; null: the one it was certificated on.

    Raises:
        CertificateError: the folder is not a teacher, or its weights are not those it was certificated with.
        ValueError: ``actions`` leaves one of its actions out, or names one that it does not have.
        EnvError: ``env`` cannot be used, or the policy does not fit it.
    """

    learns = False

    def __init__(
        self, folder: str | Path, actions: tuple[int, ...] | None = None, env: EnvConfig | None = None
    ) -> None:
        super().__init__()
        self.certificate, weights = load_certificate(folder)
        self.env, self.spec = self.certificate.env, self.certificate.spec
        self.network = PolicyNetwork(self.certificate.network, self.spec.obs_shape, self.spec.num_actions)
        self.network.load_state_dict(weights)
        if actions is not None:
            self._relabel(actions)
        if env is not None:
            own, self.env, self.spec = self.spec, env, describe(env)
            _check_fits(folder, own, env.id, self.spec)
        self.requires_grad_(False)

    def _relabel(self, actions: tuple[int, ...]) -> None:
        """The same play in the relabelled game: an action that is there n times has 1/n of its probability in each."""
        count = self.spec.num_actions
        if set(actions) != set(range(count)):
            raise ValueError(f"actions is {list(actions)}; it must have each of 0 to {count - 1}, at least once")
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

    def forward(self, rollout: Rollout) -> PolicyOutput:
        """The network over all T+1 rows of a rollout."""
        with torch.no_grad():
            output: PolicyOutput = self.network(rollout.obs, rollout.state, rollout.resets)
        return output


def _check_fits(folder: str | Path, policy: EnvSpec, task: str, env: EnvSpec) -> None:
    if env.obs_shape != policy.obs_shape or env.obs_dtype != policy.obs_dtype:
        raise EnvError(
            f"the policy of {folder} reads {policy.obs_dtype} observations of shape {policy.obs_shape}, "
            f"{task} gives {env.obs_dtype} of shape {env.obs_shape}; they must be equal"
        )
    if env.num_actions != policy.num_actions:
        raise EnvError(
            f"the policy of {folder} chooses among {policy.num_actions} actions ({', '.join(policy.action_meanings)}), "
            f"{task} has {env.num_actions} ({', '.join(env.action_meanings)}); their numbers must be equal"
        )


class Teacher(pl.LightningModule):
    """One teacher of one student: a network (live or certificated), and its recurrent state per environment copy.

    The state is the teacher's own: it starts at zero when the transfer starts, goes from rollout to rollout of the same
    worker, and is zeroed wherever the student's episode begins. The teacher gets no gradient.
    """

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__()
        self._networks = (network,)  # in a tuple: the agent owns the parameters, this module only reads them
        self.memory: dict[int, Tensor] = {}  # worker -> [B, S]

    @property
    def network(self) -> PolicyNetwork:
        """The teacher's network; a live one changes as its agent learns."""
        return self._networks[0]

    @torch.no_grad()
    def advise(self, rollout: Rollout, feed_student_state: bool = False) -> Tensor:
        """Logits [T, B, k_alpha] on the student's observations: what would the expert of alpha do here?

        Args:
            rollout: the student's. feed_student_state: start from the student's recurrent state instead of the
                teacher's own (the authors' program).
        """
        steps = rollout.steps
        state = rollout.state if feed_student_state else self.memory.get(rollout.worker)
        if state is None or state.shape[0] != rollout.copies:
            state = self.network.initial_state(rollout.copies)
        output = self.network(rollout.obs[:steps], state.to(rollout.obs.device), rollout.resets[:steps])
        self.memory[rollout.worker] = output.state
        logits: Tensor = output.logits
        return logits
