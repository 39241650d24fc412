"""Averages between two log lines, without a device synchronisation per value; and where the time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Meter:
    """Collects detached scalars (or vectors) and seconds; ``flush`` gives their means and sums, and starts anew.

    It keeps a sum and a count by name, on the device of the values, so it does not grow between two flushes.
    """

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._sums: dict[str, Tensor | float] = defaultdict(float)

    def add(self, name: str, value: Tensor | float) -> None:
        """One more value of ``name``."""
        new = value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))
        self._totals[name] = self._totals[name] + new if name in self._totals else new
        self._counts[name] += 1

    def count(self, name: str, number: Tensor | float = 1.0) -> None:
        """Adds to a sum."""
        self._sums[name] += number

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside; on a GPU, those of issuing the work."""
        began = time.perf_counter()
        yield
        self.count(name, time.perf_counter() - began)

    def flush(self) -> dict[str, float]:
        """Mean of every name since the last flush (``name/i`` per element of a vector) and sums by name."""
        result = {}
        for name, total in self._totals.items():
            mean = (total / self._counts[name]).cpu()
            if mean.ndim == 0:
                result[name] = mean.item()
            else:
                result.update({f"{name}/{i}": x for i, x in enumerate(mean.tolist())})
        result.update({name: float(total) for name, total in self._sums.items()})
        for kept in (self._totals, self._counts, self._sums):
            kept.clear()
        return result
