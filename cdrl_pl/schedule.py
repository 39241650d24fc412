"""The schedule of a transfer: pure functions of T, the student's own environment decisions (paper Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

from cdrl_pl.checks import ConfigError


@dataclass(frozen=True)
class Schedule:
    """The three switches of a transfer, in decisions of the student over all workers and ranks (ints, exact).

    Attributes:
        T1: decisions at which alignment training starts; None: the alignment function needs no training.
        T2: decisions at which distillation starts.
        stop: decisions at which both end; None: never.

    Raises:
        ConfigError: naming the option, its value and what is allowed.
    """

    T1: int | None
    T2: int
    stop: int | None = None

    def __post_init__(self) -> None:
        for name in ("T1", "T2", "stop"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} is {value}; it must be 0 or more decisions")
        if self.T1 is not None and self.T2 < self.T1:
            raise ConfigError(
                f"T2 is {self.T2} but T1 is {self.T1}; distillation (T2) may not start before alignment (T1)"
            )
        if self.stop is not None and self.stop < self.T2:
            raise ConfigError(f"stop is {self.stop} but T2 is {self.T2}; stop must be T2 or more")


def running(schedule: Schedule, env_steps: int) -> bool:
    """Returns whether the transfer has not been stopped."""
    return schedule.stop is None or env_steps < schedule.stop


def aligns(schedule: Schedule, env_steps: int) -> bool:
    """Returns whether the alignment network trains at T = ``env_steps``: T1 <= T < stop."""
    return schedule.T1 is not None and env_steps >= schedule.T1 and running(schedule, env_steps)


def distils(schedule: Schedule, env_steps: int) -> bool:
    """Returns whether the student distils at T = ``env_steps``: T2 <= T < stop."""
    return env_steps >= schedule.T2 and running(schedule, env_steps)


def linear(start: float, end: float | None, steps: int, env_steps: int) -> float:
    """A value that goes from ``start`` to ``end`` in a straight line.

    Args:
        start: value at T = 0.
        end: value from T = ``steps`` on; None: ``start`` throughout.
        steps: decisions until ``end``.
        env_steps: decisions now, T.
    """
    if end is None:
        return start
    return end if env_steps >= steps else start + (end - start) * env_steps / steps
