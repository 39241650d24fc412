"""When a transfer teaches: pure functions of T, the student's own environment decisions (paper Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """The three switches of a transfer, in decisions of the student over all workers and ranks (ints, exact).

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """

    T1: int | None  # alignment training on; None: the alignment function needs no training
    T2: int  # distillation on
    stop: int | None = None  # both off again; None: never

    def __post_init__(self) -> None:
        for name in ("T1", "T2", "stop"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; it must be 0 or more decisions")
        if self.T1 is not None and self.T2 < self.T1:
            raise ValueError(
                f"T2 is {self.T2} but T1 is {self.T1}; distillation (T2) may not start before alignment (T1)"
            )
        if self.stop is not None and self.stop < self.T2:
            raise ValueError(f"stop is {self.stop} but T2 is {self.T2}; stop must be T2 or more")


def running(schedule: Schedule, env_steps: int) -> bool:
    """Whether the transfer has not been stopped."""
    return schedule.stop is None or env_steps < schedule.stop


def aligns(schedule: Schedule, env_steps: int) -> bool:
    """Whether the alignment network trains at T = ``env_steps``: T1 <= T < stop."""
    return schedule.T1 is not None and env_steps >= schedule.T1 and running(schedule, env_steps)


def distils(schedule: Schedule, env_steps: int) -> bool:
    """Whether the student distils at T = ``env_steps``: T2 <= T < stop."""
    return env_steps >= schedule.T2 and running(schedule, env_steps)


def linear(start: float, end: float | None, steps: int, env_steps: int) -> float:
    """``start`` at T = 0, ``end`` from T = ``steps`` on, a line between; ``start`` throughout if end is None."""
    if end is None:
        return start
    return end if env_steps >= steps else start + (end - start) * env_steps / steps


@dataclass
class WeightConfig:
    """The weight of a transfer's distillation loss over time.

    Attributes:
        shape: "constant" is ``start`` throughout; "linear" goes to ``end`` in a straight line, as teachers are annealed
            in kickstarting (Schmitt et al. 2018), "cosine" along half a cosine (Loshchilov and Hutter 2017); "wean"
            goes to ``end`` as the student's mean return goes from ``low`` to ``high`` (Agarwal, Schwarzer, Castro,
            Courville, Bellemare 2022, "Reincarnating reinforcement learning"). The transfer's stop cuts any of them.
        start, end: weights beside the reinforcement loss. steps: decisions from T2 until ``end``.
        low, high: mean returns of the student, over the last ``model.window`` episodes as of the last log line.
    """

    shape: Literal["constant", "linear", "cosine", "wean"] = "constant"
    start: float = 1.0
    end: float = 0.0
    steps: int = 1_000_000
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.shape not in ("constant", "linear", "cosine", "wean"):
            raise ValueError(f"weight.shape is {self.shape!r}; it must be constant, linear, cosine or wean")
        for name, ok, allowed in (
            ("start", 0 <= self.start < math.inf, "0 or more"),
            ("end", 0 <= self.end < math.inf, "0 or more"),
            ("steps", self.steps >= 1, "1 or more decisions"),
        ):
            if not ok:
                raise ValueError(f"weight.{name} is {getattr(self, name)}; it must be {allowed}")
        if self.shape == "wean" and not (self.low is not None and self.high is not None and self.low < self.high):
            raise ValueError(
                f"weight.low is {self.low} and weight.high {self.high}; wean needs two returns, low < high"
            )


def weight_at(config: WeightConfig, decisions: int, mean_return: float | None) -> float:
    """The weight ``decisions`` after T2, of a student with this mean return (None before its first episode)."""
    if config.shape == "constant":
        return config.start
    if config.shape == "wean":
        assert config.low is not None and config.high is not None
        low, high = config.low, config.high
        done = 0.0 if mean_return is None else min(max((mean_return - low) / (high - low), 0.0), 1.0)
    else:
        done = linear(0.0, 1.0, config.steps, max(decisions, 0))
        if config.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
    return config.start + (config.end - config.start) * done


def phase(schedule: Schedule, env_steps: int) -> str:
    """A word for people: reinforce, align, distil or stopped."""
    if not running(schedule, env_steps):
        return "stopped"
    if distils(schedule, env_steps):
        return "distil"
    return "align" if aligns(schedule, env_steps) else "reinforce"
