"""An update never reads a value that the learner computed: on a GPU, that would wait for all work before it."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import FixedData, fit, graph, random_batch, transfer
from torch.utils._python_dispatch import TorchDispatchMode


class ReadsOnTheHost(TorchDispatchMode):
    """Notes where the value of a tensor is read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            ours = [frame for frame in traceback.extract_stack() if "cdrl_pl" in frame.filename]
            self.found += [f"{frame.filename}:{frame.lineno}" for frame in ours[-1:]]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("decisions", "log_every", "reads"), [(60, 1000, False), (60, 10, True)])
def test_no_update_reads_a_value(tmp_path: Path, decisions: int, log_every: int, reads: bool) -> None:
    """Only a log line does, the control."""
    module = graph(transfer(), T_max=1000, log_every=log_every)
    seen = ReadsOnTheHost()

    class Watch(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.__enter__()

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.__exit__(None, None, None)
            trainer.should_stop = module.clock >= decisions

    fit(module, FixedData(random_batch(module)), tmp_path, Watch())
    assert bool(seen.found) is reads, seen.found
