"""Where a run has come to, compared bit for bit."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cdrl_pl.training.collaboration import Collaboration


class SaveAt(pl.Callback):
    """Saves a checkpoint at the given clocks. It comes last, so that it saves what every other callback has done."""

    def __init__(self, folder: Path, *clocks: int) -> None:
        self.folder, self.clocks = folder, clocks

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if module.clock in self.clocks:
            trainer.save_checkpoint(self.folder / f"{module.clock}.ckpt")


def plain(tree: Any) -> Any:
    """Nested records as lists and dicts, for comparison."""
    if isinstance(tree, dict):
        return {str(k): plain(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple | deque):
        return [plain(v) for v in tree]
    return tree


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two trees of records and tensors differ; bits, not approximations."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for k in one for d in differences(one[k], other[k], f"{path}/{k}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [d for i, (a, b) in enumerate(zip(one, other, strict=True)) for d in differences(a, b, f"{path}/{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    return [] if type(one) is type(other) and one == other else [f"{path}: {one} and {other}"]


def final_state(module: Collaboration, trainer: pl.Trainer) -> dict[str, Any]:
    """Everything that a run has come to, except how long it took."""
    line = module.run_log.latest.items()
    latest = {k: v for k, v in line if "second" not in k and not k.startswith(("time/", "workers/"))}
    callbacks = [c for c in trainer.callbacks if not isinstance(c, SaveAt)]  # type: ignore[attr-defined]
    return plain(
        {
            "weights": dict(module.state_dict()),
            "optimizers": [o.state_dict() for o in trainer.optimizers],
            "clocks": [module.env_steps, module.policy_version],
            "episodes": [module.run_log.episodes, module.run_log.num_episodes],
            "memory": [t.teacher.states for t in module.transfers],
            "callbacks": [[type(c).__name__, c.state_dict()] for c in callbacks],
            "log": latest,
        }
    )
