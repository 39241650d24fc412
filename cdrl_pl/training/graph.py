"""The graph as a config has it: its agents, and the checks of its transfers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import nn

from cdrl_pl.agents.agent import Agent
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.agents.student import LearnerConfig, Student
from cdrl_pl.agents.warm_start import warm_started
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.presets import Preset
from cdrl_pl.transfer.transfer import TransferConfig
from cdrl_pl.transfer.weighting import TeacherWeights

NAME = re.compile(r"[A-Za-z0-9_-]+")  # of an agent, as log columns and folders carry it


@dataclass
class AgentConfig:
    """One agent: either learning in ``env``, or a frozen expert from ``certificate``.

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
            permuted or duplicated, exactly; null keeps them. An agent that learns has ``env.actions`` instead.
        teacher_weights: How the student shares its attention among several teachers.
    """

    env: EnvConfig | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    certificate: str | None = None
    init: str | None = None
    actions: tuple[int, ...] | None = None
    teacher_weights: TeacherWeights = field(default_factory=TeacherWeights)


def build_agent(name: str, config: AgentConfig) -> Agent:
    """The agent of a config.

    Raises:
        ConfigError: naming the agent, the option and what is allowed.
    """
    if config.env is None and config.certificate is None:
        raise ConfigError(f"agents.{name} needs an env or a certificate")
    if config.actions is not None and config.certificate is None:
        raise ConfigError(f"agents.{name}.actions is for certificated agents; one that learns has env.actions")
    if config.init is not None and config.certificate is not None:
        raise ConfigError(
            f"agents.{name}.init is {config.init!r}, beside the certificate {config.certificate!r}, which does not "
            "learn; it must have one of them"
        )
    try:
        if config.certificate is not None:
            return CertificatedAgent(config.certificate, config.actions, config.env)
        assert config.env is not None
        if config.init is not None:
            return warm_started(config.init, config.env, config.network, config.learner)
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
        config, begins = agents[transfer.student], transfer.schedule(preset).T2
        if config.certificate is None and begins < config.learner.value_first:
            raise ConfigError(
                f"transfer {transfer.name}: T2 is {begins}, but until {config.learner.value_first} "
                f"(agents.{transfer.student}.learner.value_first) the student's value head learns alone; T2 must "
                "not be before that"
            )


def _check_weighting(agents: dict[str, AgentConfig], transfers: list[TransferConfig], preset: Preset) -> None:
    """What compares teachers with the student's own rewards needs a student that learns from them."""
    own = {name for name, config in agents.items() if config.certificate is None and config.learner.reinforce}
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
