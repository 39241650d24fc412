"""Shared memory: rollout slots handed over by index, and the newest weights.

Anonymous mappings only: their files are unlinked when they are made, so nothing is left behind however a process dies.
No locks: a process that is killed cannot leave one held.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np

from cdrl_pl.envs import EnvSpec
from cdrl_pl.system.patience import Patience
from cdrl_pl.types import ROLLOUT_SCHEMA

Array = np.ndarray[Any, Any]
Schema = dict[str, tuple[tuple[int, ...], str]]
LINE = 64  # bytes; every field starts on a cache line, since where numbers lie decides how sums of them are rounded


def observation_names(others: int) -> list[str]:
    """The names of what is seen in a slot: through the agent's own view, and through so many others."""
    return ["obs", *(f"obs{i}" for i in range(1, others + 1))]


def rollout_schema(spec: EnvSpec, state_size: int, steps: int, copies: int, others: Sequence[EnvSpec] = ()) -> Schema:
    """Shape and dtype of every tensor of a rollout of ``ROLLOUT_SCHEMA``, and of what is seen through other views.

    Args:
        spec: of the task.
        state_size: numbers of recurrent state per copy, S.
        steps: decisions of each copy, T.
        copies: environment copies, B.
        others: of the task as other views see it.
    """
    sizes: dict[str, tuple[int, ...]] = {
        "T+1": (steps + 1,),
        "T": (steps,),
        "B": (copies,),
        "S": (state_size,),
        "A": (spec.num_actions,),
    }
    sizes["*K"] = (len(spec.action_counts),) if spec.action_counts else ()
    seen = dict(zip(observation_names(len(others)), (spec, *others), strict=True))
    rows = {**ROLLOUT_SCHEMA, **dict.fromkeys(seen, ROLLOUT_SCHEMA["obs"])}
    return {
        name: (
            tuple(size for dim in dims for size in (seen[name].obs_shape if dim == "*observation" else sizes[dim])),
            seen[name].obs_dtype if kind == "*observation" else kind,
        )
        for name, (dims, kind) in rows.items()
        if name != "masks" or spec.masked
    }


class Slots:
    """``count`` rollouts of one schema in shared memory, each a dict of arrays."""

    def __init__(self, context: BaseContext, schema: Schema, count: int) -> None:
        self.schema, self.count = schema, count
        self._size = sum(self._bytes(*entry) for entry in schema.values())
        self._raw = context.RawArray("b", self._size * count + LINE)

    @staticmethod
    def _bytes(shape: tuple[int, ...], dtype: str) -> int:
        return -(-math.prod(shape) * np.dtype(dtype).itemsize // LINE) * LINE

    @property
    def num_bytes(self) -> int:
        """Of all slots."""
        return ctypes.sizeof(self._raw)

    def __getitem__(self, index: int) -> dict[str, Array]:
        """Views of slot ``index``; no copies."""
        if not 0 <= index < self.count:
            raise IndexError(f"slot {index} of {self.count}")
        start = -ctypes.addressof(self._raw) % LINE  # the same in every process: mappings are page-aligned
        offset, views = start + index * self._size, {}
        for name, (shape, dtype) in self.schema.items():
            count = math.prod(shape)
            views[name] = np.frombuffer(self._raw, dtype, count, offset).reshape(shape)
            offset += self._bytes(shape, dtype)
        return views


class SharedWeights:
    """The newest weights of one agent, written by the learner and read by its workers.

    A sequence counter guards them: odd while the learner writes, and a reader that saw it change reads again.
    """

    PATIENCE = 30.0  # seconds

    def __init__(self, context: BaseContext, count: int) -> None:
        self._raw = context.RawArray("f", count)
        self._clock = context.RawArray("q", 2)  # sequence, policy version
        self._clock[1] = -1  # nothing was written yet

    @property
    def num_bytes(self) -> int:
        """Of all weights."""
        return ctypes.sizeof(self._raw)

    @contextmanager
    def writing(self, version: int) -> Iterator[Array]:
        """All weights as one flat array, to be overwritten inside; who reads meanwhile waits, then gets ``version``."""
        self._clock[0] += 1
        yield np.frombuffer(self._raw, np.float32)
        self._clock[1] = version
        self._clock[0] += 1

    def read(self, out: Array) -> int:
        """Copies all weights into the flat ``out`` and returns their version.

        Raises:
            RuntimeError: the learner never left the weights alone for long enough (it died while writing).
        """
        source = np.frombuffer(self._raw, np.float32)
        patience = Patience(self.PATIENCE)
        while not patience.is_over():
            before = self._clock[0]
            if before % 2 == 0:
                np.copyto(out, source)
                version = self._clock[1]
                if self._clock[0] == before:
                    return int(version)
            time.sleep(0.0005)  # the learner may wait for this core
        raise RuntimeError(f"the shared weights kept changing for {self.PATIENCE:g} s while they were read")
