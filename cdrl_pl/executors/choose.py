"""The executor of a name."""

from __future__ import annotations

from cdrl_pl.executors.executor import Executor, ExecutorError
from cdrl_pl.executors.local import LocalExecutor
from cdrl_pl.spelling import nearest

LOCAL = "local"
EXECUTORS = (LOCAL,)


def check_executor(name: str) -> None:
    """Refuses what is the name of no executor.

    Raises:
        ExecutorError: naming those that there are.
    """
    if name not in EXECUTORS:
        raise ExecutorError(
            f"executor is {name!r}; it must be one of {', '.join(EXECUTORS)}{nearest(name, list(EXECUTORS))}"
        )


def make_executor(name: str) -> Executor:
    """The executor of this name.

    Raises:
        ExecutorError: there is none of this name, or what it needs is not here.
    """
    check_executor(name)
    return LocalExecutor()
