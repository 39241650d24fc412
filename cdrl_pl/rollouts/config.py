"""Settings of a pool, as a config has them."""

from __future__ import annotations

from dataclasses import dataclass

from cdrl_pl.checks import ConfigError, check_options


@dataclass
class PoolConfig:
    """How the environments of each agent are played.

    Attributes:
        workers: Environment worker processes per agent; null takes as many as suit the machine (docs/scaling.md).
        copies: Environment copies per worker (B).
        steps: Decisions of each copy in a rollout (T; the paper's t_max).
        queue: Rollouts that a worker may be ahead of the learner, the one it is playing included.
        deterministic: Plays in rounds, all workers with the same weights, and hands over in order: the same seed gives
            the same rollouts bit for bit. Slower, since nobody plays while the learner learns.
        concatenate: Joins rollouts of one worker that are already waiting, up to ``queue`` of them (the authors'
            program).
        bf16: Acts with trunk and memory in bfloat16; null does where the trainer's precision is bf16 and the CPU is
            fast at it.
        stall_timeout: Seconds without any rollout after which the run ends with an error.
        hang_rollouts: Rollouts that each of the other workers may finish while one finishes none. A worker that falls
            further behind, and has been silent for a quarter of ``stall_timeout``, is taken for hung and replaced.
        max_restarts: Times in a row that a worker may die without finishing a rollout.
        start_method: How worker processes are started: forkserver or spawn.
    """

    workers: int | None = None
    copies: int = 8
    steps: int = 20
    queue: int = 2
    deterministic: bool = False
    concatenate: bool = False
    bf16: bool | None = None
    stall_timeout: float = 120.0
    hang_rollouts: int = 50
    max_restarts: int = 3
    start_method: str = "forkserver"

    def __post_init__(self) -> None:
        counts = ("workers", "copies", "steps", "queue", "hang_rollouts", "max_restarts")
        rows = [(name, (value := getattr(self, name)) is None or value >= 1, "1 or more") for name in counts]
        rows += [
            ("stall_timeout", self.stall_timeout > 0, "above 0 seconds"),
            ("start_method", self.start_method in ("forkserver", "spawn"), "'forkserver' or 'spawn'"),
        ]
        check_options("pool.", self, rows)
        if self.concatenate and self.deterministic:
            raise ConfigError("pool.concatenate depends on timing; it cannot be used with pool.deterministic")
