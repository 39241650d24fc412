"""Choices by the machine where the config leaves them open; measured in docs/performance.md."""

from __future__ import annotations

import ctypes
import math
import os
import resource
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from cdrl_pl.checks import ConfigError

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # a container's CPU quota: "<microseconds, or max> <of every>"
DESCRIPTORS, DESCRIPTORS_PER_WORKER = 64, 4  # that a trainer has open, and more for each worker
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def cores() -> int:
    """CPU cores that this process may use: those it is bound to (by SLURM, taskset, Docker), within its CPU quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(bound, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # there is none
        return bound


def cpu_has_bf16() -> bool:
    """Returns whether the CPU multiplies bfloat16 natively; where it does not, bf16 is slower than fp32."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def fast_precision() -> str:
    """The trainer's precision: bf16-mixed where the accelerator (else the CPU) is fast at it, else 32-true."""
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()
    return "bf16-mixed" if fast else "32-true"


def use_one_thread() -> None:
    """Keeps torch and NumPy's BLAS to one thread in this process, as in every worker: more would spin beside others."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


def descriptors_needed(workers: int) -> int:
    """Files that a trainer with so many workers has open, about."""
    return DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers


def allow_descriptors(workers: int) -> None:
    """Lets this process open as many files as the workers need, up to what the system allows it.

    Args:
        workers: worker processes of this rank.

    Raises:
        ConfigError: the system does not allow as many.
    """
    needed = descriptors_needed(workers)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"pool.workers makes {workers} workers, which need about {needed} open files; this process may open {hard} "
            "(ulimit -Hn); use fewer workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def evaluation_processes(episodes: int) -> int:
    """As many as cores, but at least 8 episodes in each: starting one takes a second."""
    return max(1, min(cores(), episodes // 8))


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, for its next buffer; False where the C library has no such setting.

    Activations of a rollout are tens of MB. By default glibc gives each back to the system and faults it in anew, page
    by page, 12,500 times per update of 20 x 32 decisions: a fifth of the update (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that older versions take
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
