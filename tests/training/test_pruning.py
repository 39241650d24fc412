"""Callbacks that look after a validation, as Optuna's for pruning does: with this trainer, at every epoch's end."""

from __future__ import annotations

import multiprocessing as mp
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import agent, fit, graph, played

from callbacks import EnvStepsCheckpoint

optuna = pytest.importorskip("optuna", reason='pruning needs optuna: pip install "cdrl-pl[tune]"')


class AsOptunas(pl.Callback):
    """What Optuna's callback does on one device; that one needs two more packages."""

    def __init__(self, trial: Any, monitor: str) -> None:
        self._trial, self.monitor = trial, monitor

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._trial.report(trainer.callback_metrics[self.monitor].item(), step=module.current_epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def optunas() -> Any:
    pytest.importorskip("lightning", reason="needs pip install optuna-integration lightning")
    integration = pytest.importorskip("optuna_integration", reason="needs pip install optuna-integration lightning")
    return integration.PyTorchLightningPruningCallback


class Scores(pl.Callback):
    """A mean return as the trial's number has it, in the second line the better the lower that is."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        trainer.callback_metrics["return/beta"] = torch.tensor(10.0 - self.number)


def run(folder: Path, *callbacks: Any, T_max: int = 120) -> Any:
    module = graph(agents={"beta": agent()}, T_max=T_max, log_every=40)
    fit(module, played(), folder, *callbacks)
    return module


@pytest.mark.parametrize("kind", [lambda: AsOptunas, optunas], ids=["as Optuna's", "Optuna's"])
def test_a_trial_that_is_worse_than_the_median_is_pruned_by_what_is_logged(kind: Any, tmp_path: Path) -> None:
    callback, clocks = kind(), []

    def objective(trial: Any) -> float:
        saved = EnvStepsCheckpoint(10**6)
        try:
            module = run(tmp_path / str(trial.number), Scores(trial.number), callback(trial, "return/beta"), saved)
            return float(module.run_log.latest["env_steps"])
        finally:
            clocks.append(trial.number)

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(2, n_warmup_steps=1))
    study.optimize(objective, n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [trial.intermediate_values for trial in study.trials] == [
        {0: 10.0, 1: 10.0, 2: 10.0},
        {0: 9.0, 1: 9.0, 2: 9.0},
        {0: 8.0, 1: 8.0},
    ]
    assert not [process for process in mp.active_children() if "beta" in process.name]  # the pruned one's are ended


def test_what_is_not_logged_yet_is_waited_for_and_what_never_is_is_refused(tmp_path: Path) -> None:
    study = optuna.create_study()
    trial = study.ask()
    run(tmp_path / "one", AsOptunas(trial, "return/beta"))  # there once an episode has ended; not a KeyError before
    assert study.trials[0].intermediate_values
    with pytest.raises(ValueError, match=r"AsOptunas.monitor is 'retrun/beta', which no log line has; did you mean"):
        run(tmp_path / "two", AsOptunas(trial, "retrun/beta"))


class Both(AsOptunas):
    """One that knows both ends is let look by Lightning, once."""

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        pass


def test_a_callback_that_looks_after_an_epoch_is_not_let_look_twice(tmp_path: Path) -> None:
    study = optuna.create_study()
    run(tmp_path, Scores(0), Both(study.ask(), "return/beta"))
    assert study.trials[0].intermediate_values == {}
