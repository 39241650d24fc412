"""The executor of a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdrl_pl.executors.executor import Executor, ExecutorError
from cdrl_pl.executors.local import LocalExecutor
from cdrl_pl.executors.ray import RayExecutor
from cdrl_pl.executors.ray import read_options as ray_options
from cdrl_pl.executors.slurm import SlurmExecutor
from cdrl_pl.executors.slurm import read_options as slurm_options
from cdrl_pl.spelling import nearest

LOCAL, SLURM, RAY = "local", "slurm", "ray"
EXECUTORS = (LOCAL, SLURM, RAY)


def check_executor(name: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Refuses what is the name of no executor, and options of one that cannot be.

    Args:
        name: of the executor.
        options: of each executor, by its name.

    Raises:
        ExecutorError: naming those that there are, or the option, its value and what is allowed.
    """
    if name not in EXECUTORS:
        raise ExecutorError(
            f"executor is {name!r}; it must be one of {', '.join(EXECUTORS)}{nearest(name, list(EXECUTORS))}"
        )
    slurm_options((options or {}).get(SLURM) or {})
    ray_options((options or {}).get(RAY) or {})


def make_executor(name: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> Executor:
    """The executor of this name.

    Args:
        name: of the executor.
        options: of each executor, by its name.

    Raises:
        ExecutorError: there is none of this name, an option is wrong, or what it needs is not here.
    """
    check_executor(name, options)
    if name == SLURM:
        return SlurmExecutor(slurm_options((options or {}).get(SLURM) or {}))
    if name == RAY:
        return RayExecutor(ray_options((options or {}).get(RAY) or {}))
    return LocalExecutor()
