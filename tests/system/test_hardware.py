"""What is chosen by the machine where the config leaves it open."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from threadpoolctl import threadpool_info

from cdrl_pl.checks import ConfigError
from cdrl_pl.rollouts.config import PoolConfig
from cdrl_pl.system import hardware
from cdrl_pl.system.processes import in_processes


@pytest.mark.parametrize(
    ("quota", "wanted"),
    [
        ("max 100000", 6),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("5000 100000", 1),
        ("900000 100000", 6),
        (None, 6),
    ],
)
def test_cores_are_those_the_process_is_bound_to_within_its_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, wanted: int
) -> None:
    """A machine of 64, as a batch system or a container gives a part of it."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(hardware, "CPU_MAX", tmp_path / "cpu.max")
    if quota is not None:
        hardware.CPU_MAX.write_text(quota + "\n")
    assert hardware.cores() == wanted


@pytest.mark.parametrize(
    ("cores", "episodes", "wanted"), [(2, 100, 2), (2, 15, 1), (1, 100, 1), (16, 100, 12), (16, 8, 1), (4, 1, 1)]
)
def test_evaluations_take_the_cores_but_not_for_a_few_episodes(
    monkeypatch: pytest.MonkeyPatch, cores: int, episodes: int, wanted: int
) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    assert hardware.evaluation_processes(episodes) == wanted


@pytest.mark.parametrize(("native", "wanted"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bf16_is_for_cpus_that_have_it(monkeypatch: pytest.MonkeyPatch, native: bool, wanted: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native}, raising=False)
    assert hardware.fast_precision() == wanted


def test_what_the_config_says_holds() -> None:
    assert replace(PoolConfig(), workers=3, bf16=False) == PoolConfig(workers=3, bf16=False)
    with pytest.raises(ValueError, match=r"pool.workers is 0; it must be 1 or more"):
        PoolConfig(workers=0)


FAULTS = """
import ctypes, resource, sys
from cdrl_pl.system.hardware import keep_freed_memory

def touch_and_free():  # as torch's buffers: two of 24 MB, malloc'ed, written, freed
    libc.memset(a := libc.malloc(24 << 20), 1, 24 << 20)
    libc.memset(b := libc.malloc(24 << 20), 1, 24 << 20)
    libc.free(b), libc.free(a)

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(5):
    touch_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_memory_is_not_faulted_in_again() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "default")
    }
    assert faults["keep"] < 100
    assert faults["default"] > 10_000  # the control: 48 MB is 12,288 pages, five times


def _threads(_: int, tick: Callable[[], None]) -> tuple[int, set[int]]:
    blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    return torch.get_num_threads(), blas


def test_a_process_beside_others_has_one_thread_for_torch_and_for_numpy() -> None:
    assert in_processes(_threads, [0, 1]) == [(1, {1})] * 2


def _frozen(_: int, tick: Callable[[], None]) -> tuple[int, int]:
    count = gc.get_freeze_count()
    gc.collect()
    return count, psutil.Process().memory_full_info().uss


def test_a_collection_in_a_worker_copies_nothing_of_what_it_shares() -> None:
    """About 50,000 objects, 36 MB, come with a fork; the rest of a process is some 10 MB."""
    ((frozen, memory),) = in_processes(_frozen, [0])
    assert frozen > 10_000 and gc.get_freeze_count() == 0  # the trainer's own are not frozen
    assert memory < 25 * 2**20


def test_too_few_open_files_for_the_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.resource, "getrlimit", lambda kind: (64, 64))
    with pytest.raises(ConfigError, match=r"16 workers, which need about 128 open files; this process may open 64"):
        hardware.allow_descriptors(16)


def test_open_files_are_allowed_where_the_system_lets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(hardware.resource, "getrlimit", lambda kind: (64, 4096))
    monkeypatch.setattr(hardware.resource, "setrlimit", lambda kind, limits: given.append(limits))
    hardware.allow_descriptors(16)
    assert given == [(128, 4096)]
