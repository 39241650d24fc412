"""What the trainer and a worker process say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from cdrl_pl.envs import EnvConfig, EnvSpec
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
    """The reply to PLAY."""

    slot: int
    policy_version: int
    episodes: tuple[Episode, ...]
    play_seconds: float
    wait_seconds: float  # waiting for a free slot before it
    generation: int = 0  # of the worker, counted by the pool


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker needs to know; sent to its process once."""

    name: str
    env: EnvConfig
    spec: EnvSpec
    network: NetworkConfig
    steps: int  # T
    copies: int  # B
    bf16: bool
    entropy: tuple[int, ...]  # of the SeedSequence of this worker's own randomness
    slots: Slots = field(repr=False)
    weights: SharedWeights = field(repr=False)
