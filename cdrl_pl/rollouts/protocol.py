"""Messages between the trainer and a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from cdrl_pl.envs import EnvConfig, EnvSpec, View
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.rollouts.shared_memory import SharedWeights, Slots
from cdrl_pl.types import Episode


class Command(Enum):
    """What the pool asks of a worker."""

    PLAY = "play"  # argument: the slot to fill
    SNAPSHOT = "snapshot"
    RESTORE = "restore"  # argument: a snapshot
    CLOSE = "close"


class Reply(Enum):
    """What a worker answers."""

    READY = "ready"
    ROLLOUT = "rollout"
    SNAPSHOT = "snapshot"
    ERROR = "error"


class RolloutReply(NamedTuple):
    """The reply to PLAY.

    Attributes:
        slot: that was filled.
        policy_version: of the policy that played it.
        episodes: that ended in it.
        play_seconds: seconds of playing.
        wait_seconds: seconds of waiting for a free slot before it.
        generation: of the worker, counted by the pool.
    """

    slot: int
    policy_version: int
    episodes: tuple[Episode, ...]
    play_seconds: float
    wait_seconds: float
    generation: int = 0


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker needs to know; sent to its process once.

    Attributes:
        name: of the agent.
        env: the task.
        spec: of the task.
        network: structure of the policy network.
        steps: decisions of each copy in a rollout, T.
        copies: environment copies, B.
        bf16: whether trunk and memory act in bfloat16.
        entropy: of the SeedSequence of this worker's own randomness.
        slots: shared memory for rollouts.
        weights: shared memory with the newest weights.
        others: views beside the agent's own that are written into every rollout, and the task as each sees it.
    """

    name: str
    env: EnvConfig
    spec: EnvSpec
    network: NetworkConfig
    steps: int
    copies: int
    bf16: bool
    entropy: tuple[int, ...]
    slots: Slots = field(repr=False)
    weights: SharedWeights = field(repr=False)
    others: Mapping[View, EnvSpec] = field(default_factory=dict)
