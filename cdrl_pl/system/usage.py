"""What processes use of this machine, as Linux says it in /proc; elsewhere nothing is known."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Used(NamedTuple):
    """What some processes use.

    Attributes:
        cores: that they kept busy, on average since the last look.
        memory: bytes; what they share is counted once.
    """

    cores: float
    memory: int


class Usage:
    """Looks at processes from time to time."""

    def __init__(self) -> None:
        self._looked_at, self._seconds = time.monotonic(), dict[int, float]()

    def look(self, pids: Iterable[int]) -> Used | None:
        """What this process and those use; None where nothing is known."""
        page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
        now, own, seconds, memory = time.monotonic(), os.getpid(), dict[int, float](), 0
        for pid in {own, *pids}:
            try:
                resident, shared = map(int, (PROC / str(pid) / "statm").read_text().split()[1:3])
                times = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[11:13]
            except (OSError, ValueError):  # it has ended
                continue
            memory += page * (resident if pid == own else resident - shared)
            seconds[pid] = sum(map(int, times)) / tick
        if not seconds:
            return None
        gained = sum(value - self._seconds.get(pid, value) for pid, value in seconds.items())
        cores = gained / max(now - self._looked_at, 1e-9)
        self._looked_at, self._seconds = now, seconds
        return Used(cores, memory)
