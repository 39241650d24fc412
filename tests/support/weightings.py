"""What tests of weighting share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from graphs import FixedData, copy_of, fit, graph, random_batch, transfer
from torch import Tensor

from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.types import Rollout


class Lines(pl.Callback):
    """Every log line of a run that writes one per batch."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.lines.append(dict(module.run_log.latest))

    def of(self, name: str) -> list[float | None]:
        return [line.get(name) for line in self.lines]


def logged(module: Collaboration, folder: Path, *batches: dict[str, Rollout]) -> Lines:
    lines = Lines()
    fit(module, FixedData(*(batches or [random_batch(module)])), folder, lines)
    return lines


def trained(folder: Path, **options: Any) -> dict[str, Tensor]:
    module = graph(transfer(**options), T_max=60)
    fit(module, FixedData(*(random_batch(module, seed) for seed in range(3))), folder)
    return copy_of(module)
