"""What an executor of runs is: it starts a process somewhere, is asked what became of it, and ends it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cdrl_pl.checks import ConfigError
from cdrl_pl.spelling import nearest

COMMAND = (sys.executable, "-m", "cdrl_pl")
RUN_VERSION = "CDRL_PL_RUN_VERSION"  # as in cdrl_pl.cli.main: the name of the folder that a command writes to
RETRIES = 3  # starts of a run that is lost each time before its next checkpoint
SAVING = 60.0  # seconds that a run may take to save and end when it is told to


class ExecutorError(ConfigError):
    """An executor that is not here or refuses a job, with the reason and what is allowed."""


@dataclass(frozen=True)
class Job:
    """One command of a run, to be started once.

    Attributes:
        name: for people, such as arm/seed-1.
        command: the whole command line.
        folder: of the run, which every machine that may run it sees under this path.
        log: file that its output is added to.
        state: that the run is in meanwhile: training or evaluating.
        variables: of its environment, beside those of the driver.
        held: open file descriptors, locks, that a process on this machine inherits.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    log: Path
    state: str = "training"
    variables: Mapping[str, str] = field(default_factory=dict)
    held: tuple[int, ...] = ()


class Process(Protocol):
    """A job that was started.

    Attributes:
        lost: why it ended through no fault of its own, a lost node or a time limit, and may be started again.
    """

    lost: str

    def ask(self) -> int | None:
        """Its exit code, negative where a signal of that number ended it; None while it is under way."""

    def end(self) -> None:
        """Tells it to save and end, and does not wait for it."""

    def wait(self, seconds: float) -> None:
        """Waits until it has ended; kills it where it has not after so many seconds."""


class Executor(Protocol):
    """Where jobs are run."""

    def start(self, job: Job) -> Process:
        """Starts a job.

        Raises:
            ExecutorError: the job was refused, in the words of who refused it.
        """

    def find(self, folder: Path) -> tuple[Process, str] | None:
        """What an earlier driver has started in a run's folder and left under way, and the run's state meanwhile."""


class Started(Protocol):
    """A run or a trial that has been started.

    Attributes:
        process: the one under way; null where there is none.
    """

    process: Process | None

    def stop(self) -> None:
        """Ends its process, which saves a checkpoint first."""


def end_all(started: Sequence[Started]) -> None:
    """Ends all of them; all save at once."""
    for one in started:
        if one.process is not None:
            one.process.end()
    for one in started:
        one.stop()


def check_known(executor: str, content: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The options of an executor that are not null.

    Args:
        executor: its name.
        content: the options.
        known: the names of those that there are.

    Raises:
        ExecutorError: there is none of a name.
    """
    names = list(known)
    for name in content:
        if name not in names:
            raise ExecutorError(f"there is no option {executor}.{name}{nearest(str(name), names)}")
    return {name: value for name, value in content.items() if value is not None}


def check_values(executor: str, given: Mapping[str, Any], rows: Iterable[tuple[str, object, str]]) -> None:
    """Refuses the first option whose value is not taken.

    Args:
        executor: its name.
        given: the options.
        rows: name, whether its value is taken, and what is allowed.

    Raises:
        ExecutorError: naming the option, its value and what is allowed.
    """
    for name, ok, allowed in rows:
        if not ok:
            raise ExecutorError(f"{executor}.{name} is {given[name]!r}; it must be {allowed}")


@dataclass
class Retries:
    """How often a run that was lost is started again: while it gets on, always; otherwise a few times.

    Attributes:
        left: starts without a newer checkpoint that are left.
        env_steps: decisions of the newest checkpoint at the last loss.
    """

    left: int = RETRIES
    env_steps: int = -1

    def again(self, env_steps: int) -> bool:
        """Returns whether to start it again, and counts that.

        Args:
            env_steps: decisions of its newest checkpoint; 0 before the first.
        """
        self.left = RETRIES if env_steps > self.env_steps else self.left
        self.env_steps, self.left = env_steps, self.left - 1
        return self.left >= 0


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, without what belongs to a run that it may be part of, and with ``variables``."""
    own = (RUN_VERSION, "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    return {**{k: v for k, v in os.environ.items() if k not in own}, **(variables or {})}
