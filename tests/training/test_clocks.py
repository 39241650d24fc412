"""Clocks, returns and log lines of a run."""

from __future__ import annotations

import csv
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from collaborations import BETA, PHASES, F
from graphs import FixedData, Recorder, agent, fit, graph, random_batch, random_rollout, step_once, switches, transfer
from pytorch_lightning.loggers import CSVLogger

from cdrl_pl.system.stop import Stopped
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.types import Episode

# Clocks


def far_along(start: int, **options: Any) -> Collaboration:
    """A run at T = ``start``: one decision per rollout, T1, T2 and stop at the second, third and fifth from here."""
    schedule = {"T1": start + 1, "T2": start + 2, "stop": start + 4}
    module = graph(transfer(**schedule), T_max=start + 6, log_every=1, **options)
    module.env_steps = dict.fromkeys(module.env_steps, start)
    return module


FAR = [2**24, 2**31 - 3, 2**33]


@pytest.mark.parametrize("start", FAR)
def test_fault_30_the_schedule_is_exact_far_along(tmp_path: Path, start: int) -> None:
    module, recorder = far_along(start), Recorder()
    fit(module, FixedData(random_batch(module, steps=1, copies=1)), tmp_path, recorder)
    assert recorder.starts == list(range(start, start + 6))
    assert recorder.changed_at(F) == [start + 1, start + 2, start + 3]
    assert recorder.changed_at(BETA + "distill_head") == [start + 2, start + 3]


@pytest.mark.parametrize("start", FAR)
def test_fault_30_clocks_are_exact_ints_in_module_and_checkpoint(tmp_path: Path, start: int) -> None:
    module = far_along(start)
    trainer = fit(module, FixedData(random_batch(module, steps=1, copies=1)), tmp_path)
    trainer.save_checkpoint(tmp_path / "far.ckpt")
    saved = torch.load(tmp_path / "far.ckpt", weights_only=True)["collaboration"]["env_steps"]
    for clocks in (module.env_steps, saved):
        assert clocks == {"alpha": start + 6, "beta": start + 6}
        assert all(type(value) is int for value in clocks.values())


@pytest.mark.parametrize("start", FAR)
def test_fault_30_clocks_are_exact_in_the_log(tmp_path: Path, start: int) -> None:
    module, logger = far_along(start), CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    fit(module, FixedData(random_batch(module, steps=1, copies=1)), tmp_path, logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    expected = [str(start + i) for i in range(1, 7)]
    assert [row["step"] for row in rows] == [row["env_steps"] for row in rows] == expected


def test_the_clock_counts_decisions_of_all_copies_and_the_run_ends_at_t_max(tmp_path: Path) -> None:
    module = graph(T_max=100)
    trainer = fit(module, FixedData(random_batch(module, steps=7, copies=3)), tmp_path)
    assert module.env_steps == {"alpha": 105, "beta": 105}  # the first multiple of 21 past 100
    assert module.policy_version == 5 and trainer.fit_loop.total_batch_idx == 4


# Returns and logs


def test_the_reported_return_is_the_mean_of_the_last_window(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent()}, T_max=50, window=3)
    batches = []
    for ret in range(5):
        rollout = replace(random_rollout(), episodes=(Episode(float(ret), 4 + ret),))
        batches.append({"beta": rollout})
    fit(module, FixedData(*batches), tmp_path)
    assert module.run_log.latest["return/beta"] == 3.0 and module.run_log.latest["length/beta"] == 7.0
    assert module.run_log.latest["episodes/beta"] == 5


def test_there_is_no_return_before_the_first_episode(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent()})
    assert module.run_log.mean_return("beta") is None
    step_once(module, tmp_path, {"beta": replace(random_rollout(), episodes=())})
    assert "return/beta" not in module.run_log.latest


def test_a_line_is_logged_every_log_every_decisions_and_at_the_end(tmp_path: Path) -> None:
    module, logger = graph(agents={"beta": agent()}, T_max=100, log_every=30), CSVLogger(tmp_path)
    fit(module, FixedData(random_batch(module)), tmp_path, logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["30", "60", "90", "100"]


class EndsAt50(pl.Callback):
    """Ends a run in the middle of two log lines."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if module.clock == 50:
            if self.how == "callback":
                trainer.should_stop = True
            elif self.how == "while learning":
                module.stop_request.signal = signal.SIGTERM
            else:
                raise {"while waiting": Stopped, "error": RuntimeError}[self.how]("on purpose")


@pytest.mark.parametrize("how", ["callback", "while learning", "while waiting", "error"])
def test_the_last_line_is_logged_however_a_run_ends(tmp_path: Path, how: str) -> None:
    module, logger = graph(agents={"beta": agent()}, T_max=100, log_every=30), CSVLogger(tmp_path)
    with suppress(Stopped, RuntimeError):
        fit(module, FixedData(random_batch(module)), tmp_path, EndsAt50(how), logger=logger)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        assert [row["env_steps"] for row in csv.DictReader(file)] == ["30", "50"]


def test_without_the_switches_no_phase_is_shown() -> None:
    """What is shown is what happened, not what was planned."""
    module = graph(transfer(**PHASES))
    module.env_steps["beta"] = 60
    assert module.phases() == {"alpha-beta": "reinforce"}


def test_the_phases_for_people_follow_the_clock() -> None:
    module = graph(transfer(**PHASES))
    seen = []
    for clock in (29, 30, 60, 90):
        module.env_steps["beta"] = clock
        for switch in switches():
            switch.on_train_batch_start(None, module, None, 0)  # type: ignore[arg-type]
        seen.append(module.phases()["alpha-beta"])
    assert seen == ["reinforce", "align", "distil", "stopped"]
