"""A policy that no longer looks at what it sees is said to be so, once, also across a resumed run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import FixedData, alone, fit, random_batch

from cdrl_pl import metric_names
from cdrl_pl.collapse import LINES, collapses
from cdrl_pl.training.collapse import CollapseAlarm

SAID = "the policy of beta now acts alike whatever it sees"


class Dies(pl.Callback):
    """From decision ``at`` on nothing that the network sees reaches its policy."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.at is not None and pl_module.clock >= self.at:
            with torch.no_grad():
                pl_module.agents["beta"].network.policy_head.weight.zero_()


def trained(folder: Path, at: int | None) -> list[str]:
    """The alarms of a run of 200 decisions, with a line every 10, whose policy dies at decision ``at``."""
    module = alone(T_max=200, log_every=10)  # it looks at what it sees from the start
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, FixedData(random_batch(module)), folder, Dies(at))
    return [str(w.message) for w in caught if SAID in str(w.message)]


def test_a_policy_whose_network_died_is_said_once(tmp_path: Path) -> None:
    (alarm,) = trained(tmp_path, at=50)
    assert "value_first, in model.agents.beta.learner" in alarm


def test_a_policy_that_goes_on_looking_is_not_alarmed_about(tmp_path: Path) -> None:
    assert trained(tmp_path, at=None) == []


def told(*informations: float, alarm: CollapseAlarm | None = None) -> int:
    """How many alarms lines of these state informations, in nats, give."""
    alarm = alarm or CollapseAlarm(["beta"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for information in informations:
            alarm.check({metric_names.STATE_INFORMATION("beta"): information})
    return len(caught)


@pytest.mark.parametrize(
    ("informations", "alarms"),
    [
        ([2e-4, 4e-7, 1e-7, 1e-7, 1e-7], 0),  # a beginner has not looked yet
        ([2e-2, *[1e-6] * (LINES - 1), 1e-2, 1e-6], 0),  # it recovered
        ([2e-2, *[1e-6] * LINES], 1),
        ([2e-2, *[1e-6] * 5 * LINES], 1),
        ([2e-2, *[1e-6] * LINES, 1e-2, *[1e-6] * LINES], 2),
        ([2.0, *[3e-3] * LINES], 0),  # less than it was, and not nothing
    ],
)
def test_the_alarm(informations: list[float], alarms: int) -> None:
    assert told(*informations) == alarms


def test_a_resumed_run_remembers_that_the_policy_looked() -> None:
    before, after = CollapseAlarm(["beta"]), CollapseAlarm(["beta"])
    assert told(2e-2, 1e-6, alarm=before) == 0
    after.load_state_dict(before.state_dict())
    assert told(*[1e-6] * (LINES - 1), alarm=after) == 1
    assert told(*[1e-6] * (LINES - 1), alarm=CollapseAlarm(["beta"])) == 0


def test_a_checkpoint_keeps_it(tmp_path: Path) -> None:
    module, resumed = alone(T_max=10), alone(T_max=20)
    trainer = fit(module, FixedData(random_batch(module)), tmp_path)
    told(2e-2, 1e-6, alarm=module.collapse_alarm)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    resumed.on_load_checkpoint(torch.load(tmp_path / "it.ckpt", weights_only=False))
    assert resumed.collapse_alarm.state_dict() == module.collapse_alarm.state_dict()
    assert resumed.collapse_alarm.state_dict() != alone(T_max=10).collapse_alarm.state_dict()


@pytest.mark.parametrize(
    ("informations", "spans"),
    [
        ([2e-4, 4e-7, 1e-7, 1e-7, 1e-7], []),
        ([2e-2, *[1e-6] * 4], [(1, None)]),
        ([2e-2, *[1e-6] * 4, 1e-2, 1e-2], [(1, 5)]),
        ([2e-2, *[1e-6] * 3, 1e-2, 1e-6, 1e-6, 1e-2, *[1e-6] * 9], [(1, 4), (8, None)]),
        ([2e-2, 1e-6, float("nan"), 1e-6, 1e-6], [(1, None)]),
    ],
)
def test_where_a_run_was_collapsed(informations: list[float], spans: list[tuple[float, float | None]]) -> None:
    assert collapses(enumerate(informations)) == spans
