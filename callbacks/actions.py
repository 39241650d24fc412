"""Action distributions of student, teacher and aligned teacher (the paper's Figure 5)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytorch_lightning as pl

from cdrl_pl import metric_names
from cdrl_pl.checks import ConfigError
from cdrl_pl.evaluation.bars import Bars, draw_bars
from cdrl_pl.storage.atomic import named
from cdrl_pl.training.board import show
from cdrl_pl.training.collaboration import Collaboration

WIDTH = 420  # pixels of TensorBoard's figure


class ActionDistributions(pl.Callback):
    """Writes ``action_distributions.jsonl`` in the run folder: a line of named probabilities per ``every`` decisions.

    TensorBoard gets them as a figure.

    Each line has env_steps and, per agent, its mean policy on its own states; per active transfer the teacher's and
    the aligned teacher's on the student's states. The means are those of the last log line.

    Args:
        every: Decisions between two lines.
    """

    def __init__(self, every: int = 100_000) -> None:
        if every < 1:
            raise ConfigError(f"ActionDistributions.every is {every}; it must be 1 or more")
        self.every = every
        self._last = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a line once ``every`` more decisions are in the log."""
        assert isinstance(pl_module, Collaboration)
        logged = int(pl_module.run_log.latest.get(metric_names.ENV_STEPS(), 0))
        if logged // self.every > self._last // self.every:
            self._write(trainer, pl_module)
            self._last = logged

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what was logged since the last line."""
        assert isinstance(pl_module, Collaboration)
        if int(pl_module.run_log.latest.get(metric_names.ENV_STEPS(), 0)) > self._last:
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, module: Collaboration) -> None:
        path = module.run_folder / "action_distributions.jsonl"
        env_steps = int(module.run_log.latest.get(metric_names.ENV_STEPS(), 0))
        writes = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if (policies := distributions(module)) and writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            with named(path), path.open("a") as file:
                file.write(json.dumps({"env_steps": env_steps, **policies}) + "\n")
            groups = [Bars(name, list(said), np.array([*said.values()])) for name, said in policies.items()]
            show(module, "action distributions", draw_bars(groups, WIDTH, 0), env_steps)

    def state_dict(self) -> dict[str, Any]:
        """T of the last line."""
        return {"last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self._last = state_dict["last"]


def distributions(module: Collaboration) -> dict[str, dict[str, float]]:
    """Named mean action probabilities of the last log line, by agent, ``transfer/teacher`` and ``transfer/aligned``.

    Actions of the same name (the game's own action, there more than once) are summed.
    """
    found: dict[str, dict[str, float]] = {}
    for source, names in module.action_names().items():
        if f"{metric_names.ACTIONS(source)}/0" in module.run_log.latest:
            found[source] = dict.fromkeys(names, 0.0)
            for i, name in enumerate(names):
                found[source][name] = round(
                    found[source][name] + module.run_log.latest[f"{metric_names.ACTIONS(source)}/{i}"], 4
                )
    return found
