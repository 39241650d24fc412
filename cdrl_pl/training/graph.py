"""The graph as a config has it: its agents, and the checks of its transfers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn

from cdrl_pl.agents.agent import Agent
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.agents.own_policy import OwnPolicy
from cdrl_pl.agents.student import LearnerConfig, Student
from cdrl_pl.agents.warm_start import warm_started
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig, EnvSpec, View
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.presets import Preset
from cdrl_pl.training.switches import TransferSwitch
from cdrl_pl.transfer.observations import seen_by_teacher
from cdrl_pl.transfer.transfer import Transfer, TransferConfig
from cdrl_pl.transfer.weighting import TeacherWeights

NAME = re.compile(r"[A-Za-z0-9_-]+")  # of an agent, as log columns and folders carry it


@dataclass
class AgentConfig:
    """One agent: either learning in ``env``, or a frozen expert: from ``certificate``, or a ``policy`` of your own.

    Attributes:
        env: Task that the agent plays. Required of an agent that learns; null for a certificated agent's own task.
        network: Structure of the policy network; not read where there is a ``certificate``, and left out where there is
            an ``init``.
        learner: Settings of the reinforcement loss and of the optimizer; not read where there is a ``certificate``.
        certificate: Folder of a certificated teacher. It brings network and env, and the agent does not learn. With
            ``env`` beside it, the expert plays that task instead of its own.
        init: Folder of a certificated teacher with whose weights an agent that learns begins, and through whose view it
            sees where its env has none. It has the certificate's network, with new policy and distillation heads where
            the number of actions differs. A resumed run has its checkpoint's weights instead.
        actions: Indices into a certificated agent's actions: the same expert in the same game with its actions so
            permuted or duplicated, exactly, or some of them left out, whose probability the others then share in
            proportion; null keeps them. An agent that learns has ``env.actions`` instead.
        trust: Packages from which what the certificate names may be imported: its trunk, the module that registers its
            environment, its wrappers. Nothing else that a certificate names ever is.
        policy: Class path of a torch module of your own, a frozen expert in ``env``: made as Policy(obs_shape,
            **policy_options), it gives logits [N, actions] of float32 observations [N, *obs_shape]; images are scaled
            to 0..1. Or the file of an ONNX graph, FILE.onnx, with such observations as its input obs (or as uint8), any
            recurrent states as h and h_out, and logits or q as an output.
        policy_options: Keywords of that module. Of a graph: output ("logits" or "q"), temperature (what they are
            divided by, without unit or in points), divisor (of uint8 observations where it reads float32, 255) and
            names (the graph's own, by those here).
        teacher_weights: How the student shares its attention among several teachers.
    """

    env: EnvConfig | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    certificate: str | None = None
    init: str | None = None
    actions: tuple[int, ...] | None = None
    trust: tuple[str, ...] = ()
    policy: str | None = None
    policy_options: dict[str, Any] = field(default_factory=dict)
    teacher_weights: TeacherWeights = field(default_factory=TeacherWeights)


def build_agent(name: str, config: AgentConfig) -> Agent:
    """The agent of a config.

    Raises:
        ConfigError: naming the agent, the option and what is allowed.
    """
    if config.env is None and config.certificate is None:
        raise ConfigError(f"agents.{name} needs an env or a certificate")
    if config.certificate is not None and config.policy is not None:
        raise ConfigError(f"agents.{name} has a certificate and a policy; it must be one of them")
    if config.trust and config.certificate is None and config.init is None:
        raise ConfigError(f"agents.{name}.trust is of a certificate (or init); without one, leave it out")
    if config.init is not None and config.policy is not None:
        raise ConfigError(f"agents.{name} has init and a policy, which does not learn; it must have one of them")
    if config.policy_options and config.policy is None:
        raise ConfigError(f"agents.{name}.policy_options are of a policy; without one, leave them out")
    if config.actions is not None and config.certificate is None:
        raise ConfigError(f"agents.{name}.actions is for certificated agents; one that learns has env.actions")
    if config.init is not None and config.certificate is not None:
        raise ConfigError(
            f"agents.{name}.init is {config.init!r}, beside the certificate {config.certificate!r}, which does not "
            "learn; it must have one of them"
        )
    try:
        if config.certificate is not None:
            return CertificatedAgent(config.certificate, config.actions, config.env, config.trust)
        assert config.env is not None
        if config.policy is not None:
            return OwnPolicy(config.policy, config.policy_options, config.env)
        if config.init is not None:
            return warm_started(config.init, config.env, config.network, config.learner, config.trust)
        return Student(config.env, config.network, config.learner)
    except ConfigError as error:
        raise type(error)(f"agents.{name}: {error}") from None


def check_graph(agents: dict[str, AgentConfig], transfers: list[TransferConfig], preset: Preset) -> None:
    """Refuses a graph that cannot be.

    Args:
        agents: by name.
        transfers: in the config's order.
        preset: the paper's text or its authors' program.

    Raises:
        ConfigError: naming the option, its value and what is allowed.
    """
    if not agents:
        raise ConfigError("model.agents is empty; name at least one agent")
    for name in agents:
        if not isinstance(name, str):
            raise ConfigError(f"model.agents names {name!r}, which is no text; quote it, or choose another name")
        if not NAME.fullmatch(name):
            raise ConfigError(f"model.agents names {name!r}; a name has letters, digits, _ and - only")
        if hasattr(nn.ModuleDict(), name):
            raise ConfigError(f"model.agents names {name!r}, which PyTorch keeps for itself; it must be another name")
    _check_transfers(agents, transfers)
    _check_weighting(agents, transfers, preset)
    _check_value_first(agents, transfers, preset)


def _check_transfers(agents: dict[str, AgentConfig], transfers: list[TransferConfig]) -> None:
    seen = set()
    for i, transfer in enumerate(transfers):
        for end in ("teacher", "student"):
            if getattr(transfer, end) not in agents:
                raise ConfigError(
                    f"transfers[{i}].{end} is {getattr(transfer, end)!r}; it must be one of {', '.join(agents)}"
                )
        if transfer.name in seen:
            raise ConfigError(f"transfers[{i}]: there is already a transfer {transfer.name}; one per pair is allowed")
        seen.add(transfer.name)


def _check_value_first(agents: dict[str, AgentConfig], transfers: list[TransferConfig], preset: Preset) -> None:
    """Where a value head learns alone, nothing is distilled."""
    for transfer in transfers:
        config, begins = agents[transfer.student], transfer.schedule(preset, aligns=False).T2
        if config.certificate is None and begins < config.learner.value_first:
            raise ConfigError(
                f"transfer {transfer.name}: T2 is {begins}, but until {config.learner.value_first} "
                f"(agents.{transfer.student}.learner.value_first) the student's value head learns alone; T2 must "
                "not be before that"
            )


def _check_weighting(agents: dict[str, AgentConfig], transfers: list[TransferConfig], preset: Preset) -> None:
    """What compares teachers with the student's own rewards needs a student that learns from them."""
    frozen = {name for name, config in agents.items() if config.certificate is not None or config.policy is not None}
    own = {name for name, config in agents.items() if name not in frozen and config.learner.reinforce}
    for transfer in transfers:
        if transfer.alarm is not None and transfer.student not in own:
            raise ConfigError(
                f"transfer {transfer.name}: alarm needs a student that learns from its own rewards; use null"
            )
    for name, config in agents.items():
        if config.teacher_weights.by == "value":
            if name not in own:
                raise ConfigError(f"agents.{name}.teacher_weights.by is 'value'; without own rewards use 'fixed'")
            if preset.distill_step == "separate":
                raise ConfigError(
                    f"agents.{name}.teacher_weights.by is 'value'; it needs preset_overrides.distill_step: joint, "
                    "since a separate step has no weight"
                )


def teachers_view(config: TransferConfig, agents: Mapping[str, Agent]) -> tuple[View, EnvSpec] | None:
    """The view through which a transfer's teacher reads where it is not the student's, and the student's game in it.

    Args:
        config: of the transfer.
        agents: by name.
    """
    if config.observations != "none":
        return None
    teacher, student = agents[config.teaching_agent], agents[config.student]
    seen = seen_by_teacher(teacher, student)
    if seen is None and teacher.view != student.view:
        rank_zero_info("transfer %s: the teacher reads what the student sees", config.name)
    return None if seen is None else (teacher.view, seen)


def check_trained(
    agents: Mapping[str, Agent], playing: Mapping[str, Agent], transfers: Sequence[Transfer], callbacks: Sequence[Any]
) -> None:
    """Refuses to fit what has nothing to learn, and transfers that no callback switches on.

    Args:
        agents: by name.
        playing: those that play.
        transfers: between them.
        callbacks: of the trainer.

    Raises:
        ConfigError: naming what is missing.
    """
    if not playing:
        raise ConfigError("model.agents: every agent is certificated and none is taught; nothing would be trained")
    switched = {callback.what for callback in callbacks if isinstance(callback, TransferSwitch)}
    for transfer in transfers:
        for what, needed in (("aligning", transfer.alignment.learns), ("distilling", True)):
            if needed and what not in switched:
                raise ConfigError(
                    f"transfer {transfer.name}: no callback switches {what} on; add AlignmentSchedule and "
                    "DistillationSchedule of cdrl_pl.callbacks to trainer.callbacks"
                )
        if agents[student := transfer.config.student].learner is None:
            rank_zero_info(
                "%s is certificated: %s aligns to it, and past T2 distils nothing into it", student, transfer.name
            )
