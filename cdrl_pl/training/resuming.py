"""What the root module keeps in a checkpoint, and goes on from: matched by names, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from cdrl_pl.agents.agent import Agent
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import resolve

CHECKPOINT = "collaboration"  # the key of what the root module adds to a checkpoint
FORMAT = 3  # of that; 1 was that of version 0.1, 2 had no views
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


def check_same_frozen(module: Any, weights: Mapping[str, Tensor]) -> None:
    """Refuses a frozen teacher, or a stored F, that is another than the checkpoint's, whose weights would replace it.

    Args:
        module: the root module, a ``Collaboration``, as its config made it.
        weights: the checkpoint's.

    Raises:
        ConfigError: naming the agent or the transfer.
    """
    frozen = {f"agents.{name}": agent for name, agent in module.agents.items() if agent.learner is None}
    stored = {f"transfers.{t.name}.alignment": t.alignment for t in module.transfers if t.config.alignment.file}
    for name, part in {**frozen, **stored}.items():
        for key, here in part.state_dict().items():
            saved = weights.get(f"_{name}.{key}")
            if saved is None or saved.shape != here.shape or not _equal(saved.cpu(), here.cpu()):
                raise ConfigError(
                    f"{name} is another than in the checkpoint ({key} differs); a run goes on with the same "
                    f"{'teachers' if name in frozen else 'stored alignments'}, wherever their files lie"
                )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are, up to the rounding of the precision that one of them was kept in."""
    return torch.equal(one.to(other.dtype), other) or torch.equal(other.to(one.dtype), one)


def state_of(module: Any, optimizers: list[str]) -> dict[str, Any]:
    """What a run goes on from beside weights and the optimizers' states: clocks, the log, the teachers' memories.

    Args:
        module: the root module, a ``Collaboration``.
        optimizers: their names, in the order in which Lightning keeps their states.
    """
    return {
        "format": FORMAT,
        "env_steps": dict(module.env_steps),
        "policy_version": module.policy_version,
        "epoch_over": module.epoch_over,
        "run_log": module.run_log.state_dict(),
        "collapse_alarm": module.collapse_alarm.state_dict(),
        "optimizers": optimizers,
        "tasks": {name: task_record(agent) for name, agent in module.playing.items()},
        "transfers": {
            t.name: {"teacher_states": dict(t.teacher.states), "weighting": t.weighting.state_dict()}
            for t in module.transfers
        },
    }


def restore(module: Any, checkpoint: dict[str, Any], optimizers: list[str]) -> None:
    """Goes on from ``state_of``, and puts the optimizers' states into the order in which Lightning hands them out.

    Args:
        module: the root module, a ``Collaboration``.
        checkpoint: the whole of it.
        optimizers: names of the graph's optimizers, in that order.

    Raises:
        ConfigError: the checkpoint is of another graph, has other teachers, or is of another version of this program.
    """
    state = checkpoint.get(CHECKPOINT)
    if state is None or state.get("format") != FORMAT:
        found = "no checkpoint of this program" if state is None else f"of format {state.get('format', 1)}"
        raise ConfigError(f"the checkpoint is {found}; only format {FORMAT} can be resumed (cdrl-pl 0.1 wrote 1)")
    transfers = {transfer.name: transfer for transfer in module.transfers}
    here = {"env_steps": list(module.env_steps), "transfers": list(transfers), "optimizers": optimizers}
    check_same_graph({what: list(state[what]) for what in here}, here)
    check_same_tasks(state["tasks"], {name: task_record(agent) for name, agent in module.playing.items()})
    check_same_frozen(module, checkpoint["state_dict"])
    by_name = dict(zip(state["optimizers"], checkpoint["optimizer_states"], strict=True))
    checkpoint["optimizer_states"] = [by_name[name] for name in optimizers]
    module.env_steps = {name: state["env_steps"][name] for name in module.env_steps}
    module.policy_version, module.epoch_over = state["policy_version"], state.get("epoch_over", False)
    module.run_log.load_state_dict(state["run_log"])
    if "collapse_alarm" in state:  # checkpoints of before have none
        module.collapse_alarm.load_state_dict(state["collapse_alarm"])
    for name, transfer in transfers.items():
        saved = state["transfers"][name]
        transfer.teacher.states = dict(saved["teacher_states"])
        transfer.weighting.load_state_dict(saved["weighting"])
