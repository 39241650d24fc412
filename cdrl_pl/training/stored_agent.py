"""An agent as a run's checkpoint has it, built without the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from cdrl_pl.agents.agent import Agent
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import EnvConfig
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.storage.checkpoints import is_whole, newest
from cdrl_pl.storage.verified import record, sha256
from cdrl_pl.training.graph import AgentConfig, build_agent
from cdrl_pl.training.resuming import CHECKPOINT, FORMAT, check_same_tasks, task_record
from cdrl_pl.yaml_file import load

CONFIG = "config.yaml"  # in the folder of a run


@dataclass(frozen=True)
class StoredAgent:
    """An agent that learned, on the CPU, and where it is from.

    Attributes:
        name: in its run.
        agent: with the checkpoint's weights.
        env_steps: decisions that it had played.
        sha256: of the checkpoint's file, in hexadecimal digits.
    """

    name: str
    agent: Agent
    env_steps: int
    sha256: str


def stored_agent(path: Path, name: str | None = None) -> StoredAgent:
    """The agent of a run.

    Args:
        path: of a checkpoint in its run's folder, or of that folder, whose newest whole checkpoint is taken.
        name: of the agent; None: the only one that learns.

    Raises:
        ConfigError: no such checkpoint, config or agent, or weights that are not those of the config's network.
    """
    if path.is_dir():
        found = newest([path])
        if found is None:
            raise ConfigError(f"{path} has no whole checkpoint (env_steps=N.ckpt)")
        path = found.path
    elif not is_whole(path):
        raise ConfigError(f"{path} is no checkpoint, or damaged")
    agents = _agents(path)
    name = _named(name, agents)
    content = path.read_bytes()
    checkpoint = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    state = checkpoint.get(CHECKPOINT)
    if state is None or state.get("format") != FORMAT or name not in state["env_steps"]:
        raise ConfigError(f"{path} has no agent {name!r} that this version can read")
    agent = build_agent(name, _config(path, name, agents[name]))
    check_same_tasks({name: state["tasks"][name]}, {name: task_record(agent)})
    start = f"_agents.{name}.network."
    weights = {
        key.removeprefix(start): value for key, value in checkpoint["state_dict"].items() if key.startswith(start)
    }
    try:
        agent.network.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"{path}: the network of agents.{name} is another than the config's: {' '.join(str(error).split())[:300]}"
        ) from None
    return StoredAgent(name, agent, state["env_steps"][name], sha256(content))


def _config(path: Path, name: str, given: Mapping[str, Any]) -> AgentConfig:
    """What decides an agent's network and task."""
    try:
        env, network = record(EnvConfig, given.get("env")), record(NetworkConfig, given.get("network"))
    except TypeError as error:
        raise ConfigError(f"the config of {path}: agents.{name} cannot be read: {error}") from None
    return AgentConfig(env, network, init=given.get("init"), trust=tuple(given.get("trust") or ()))


def _agents(path: Path) -> dict[str, Any]:
    """What the run's config says of its agents."""
    for place in (path.parent / CONFIG, path.parent.parent / CONFIG):
        if place.is_file():
            config = load(place.read_text(), str(place))
            agents = (config.get("model") or {}).get("agents") if isinstance(config, dict) else None
            if not isinstance(agents, dict) or not all(isinstance(agent, dict) for agent in agents.values()):
                raise ConfigError(f"{place} has no model.agents")
            return agents
    raise ConfigError(f"{path} needs the {CONFIG} of its run, beside it or in the folder above")


def _named(name: str | None, agents: dict[str, Any]) -> str:
    frozen = {one for one, config in agents.items() if config.get("certificate") or config.get("policy")}
    learning = [one for one in agents if one not in frozen]
    if name in frozen:
        stored = agents[name].get("certificate") or agents[name]["policy"]
        raise ConfigError(f"--agent is {name!r}, which does not learn: it is {stored}")
    if name is None and len(learning) == 1:
        return learning[0]
    if name not in learning:
        said = "missing" if name is None else repr(name)
        raise ConfigError(f"--agent is {said}; it must be one of {', '.join(learning)}")
    return str(name)
