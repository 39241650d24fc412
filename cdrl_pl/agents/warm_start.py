"""Warm starts: an agent that begins with a certificate's weights; heads whose sizes differ are new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cdrl_pl.agents.certificate import load_certificate
from cdrl_pl.agents.student import LearnerConfig, Student
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig
from cdrl_pl.networks import NetworkConfig, PolicyNetwork

HEADS = ("policy_head", "distill_head")  # whose sizes are the task's numbers of actions


def warm_started(
    folder: str, env: EnvConfig, network: NetworkConfig, learner: LearnerConfig, trust: Sequence[str] = ()
) -> Student:
    """A student that begins with a certificate's weights, and sees its game as the certificate's agent did.

    Args:
        folder: of the certificated teacher.
        env: the task; where it has no view, the certificate's is its own.
        network: the default, or the certificate's, which it is in any case.
        learner: settings of the reinforcement loss and of the optimizer.
        trust: packages from which what the certificate names may be imported.

    Raises:
        CertificateError: the folder is not a teacher.
        ConfigError: another network than the certificate's, or observations that its network cannot read.
        EnvError: the environment cannot be used.
    """
    certificate, weights = load_certificate(folder, trust)
    if network not in (NetworkConfig(), certificate.network):
        raise ConfigError(
            f"network is {network}; init is {folder!r}, whose network it has; leave it out: {certificate.network}"
        )
    student = Student(replace(env, view=env.view or certificate.env.view), certificate.network, learner)
    theirs, own = certificate.spec, student.spec
    if (theirs.obs_shape, theirs.obs_dtype) != (own.obs_shape, own.obs_dtype):
        raise ConfigError(
            f"init is {folder!r}, whose network reads {theirs.obs_dtype} observations of shape {theirs.obs_shape}; "
            f"{env.id} gives {own.obs_dtype} of shape {own.obs_shape}; they must be equal"
        )
    new = take_weights(student.network, weights, theirs.action_counts == own.action_counts)
    made = f"{' and '.join(new)} are new, for {own.num_actions} actions where it has {theirs.num_actions}"
    alone = f"; its value head learns alone until T = {learner.value_first}" if learner.value_first else ""
    student.begun = f"begins with the weights of {folder}; {made if new else 'no head is new'}{alone}"
    return student


@torch.no_grad()
def take_weights(network: PolicyNetwork, weights: Mapping[str, Tensor], same_choices: bool = True) -> list[str]:
    """Copies every tensor but those of heads whose sizes differ; returns the names of these heads.

    Args:
        network: of the same structure as that of the weights, but for its number of actions.
        weights: by name.
        same_choices: whether both choose as often, from as many actions; else heads of one size differ, too.
    """
    own = network.state_dict()
    shapes = {head: (own[f"{head}.weight"].shape, weights[f"{head}.weight"].shape) for head in HEADS}
    new = [head for head, (here, there) in shapes.items() if here != there or not same_choices]
    for name, tensor in own.items():
        if name.partition(".")[0] not in new:
            tensor.copy_(weights[name])
    return new
