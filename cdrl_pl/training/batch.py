"""The batch that the learner gets at each step."""

from __future__ import annotations

from typing import NamedTuple

from cdrl_pl.types import Rollout


class Batch(NamedTuple):
    """One rollout of every playing agent, and how the workers are.

    Attributes:
        rollouts: by agent.
        statistics: health of the workers, by metric.
    """

    rollouts: dict[str, Rollout]
    statistics: dict[str, float]
