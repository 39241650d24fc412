"""Whether a checkpoint is of the graph that a config describes: by names, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

from cdrl_pl.agents.agent import Agent
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import resolve

WHAT = {"env_steps": "agents that play", "transfers": "transfers", "optimizers": "optimizers"}
THE_TASK = (
    "id",
    "actions",
    "action_meanings",
    "action_counts",
    "masked",
    "obs_shape",
    "obs_dtype",
)  # what makes two tasks two


def task_record(agent: Agent) -> dict[str, Any]:
    """What an agent plays, in plain JSON: its environment's options, resolved, and what its spec says."""
    env, spec = asdict(resolve(agent.env)), asdict(agent.spec)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in {**env, **spec}.items()}


def check_same_graph(saved: Mapping[str, Sequence[str]], here: Mapping[str, Sequence[str]]) -> None:
    """Refuses a graph that has other parts than the checkpoint; their order does not count.

    Raises:
        ConfigError: naming what is new and what is gone.
    """
    for key, what in WHAT.items():
        gone = [name for name in saved[key] if name not in here[key]]
        new = [name for name in here[key] if name not in saved[key]]
        if gone or new:
            said = [f"{words}: {', '.join(names)}" for words, names in (("gone", gone), ("new", new)) if names]
            raise ConfigError(f"the checkpoint is of another graph, whose {what} differ ({'; '.join(said)})")


def check_same_tasks(saved: Mapping[str, Mapping[str, Any]], here: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses agents that would play another game than in the checkpoint; warns of other options of the same game.

    Raises:
        ConfigError: naming the agent, the option and both values.
    """
    for name, task in here.items():
        before = saved[name]
        for option in task.keys() | before.keys():
            then, now = before.get(option), task.get(option)
            if then == now or not (then or now):  # what an older checkpoint does not have is as unset
                continue
            said = f"agents.{name}: env.{option} is {now!r}, in the checkpoint it was {then!r}"
            if option in THE_TASK:
                raise ConfigError(f"{said}; a run goes on in the same task only")
            rank_zero_warn(f"{said}; the curve goes on in a task that has changed")
