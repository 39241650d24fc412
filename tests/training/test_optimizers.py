"""What a step must never do, and the optimizers that take it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from collaborations import ALPHA, BETA, PHASES, F, equal, student_of
from graphs import (
    FixedData,
    Recorder,
    agent,
    copy_of,
    fit,
    graph,
    new_network,
    random_batch,
    step_once,
    store,
    transfer,
)
from wide_cartpole import WIDE

from cdrl_pl.training import optimizers
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.types import Rollout

# Steps that must not be taken


class Optimizers(Recorder):
    """Also keeps every optimizer's state after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        super().on_train_batch_end(trainer, module, outputs, batch, index)
        states = [s for o in trainer.optimizers for s in o.state.values()]
        self.moments.append([s[k].clone() for s in states for k in ("step", "exp_avg", "exp_avg_sq")])


def spoilt(batch: dict[str, Rollout], value: float) -> dict[str, Rollout]:
    """Beta's rewards are not finite."""
    return {**batch, "beta": replace(batch["beta"], rewards=torch.full_like(batch["beta"].rewards, value))}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_fault_26_a_loss_that_is_not_finite_steps_nothing(tmp_path: Path, value: float) -> None:
    module, seen = graph(agents={"beta": agent()}, T_max=30), Optimizers()
    good = random_batch(module)
    fit(module, FixedData(good, spoilt(good, value), good), tmp_path, seen)
    assert equal(seen.weights[1], seen.weights[2])
    assert all(torch.equal(a, b) for a, b in zip(seen.moments[0], seen.moments[1], strict=True))
    assert not equal(seen.weights[2], seen.weights[3])  # and the next good rollout is learned from


def test_fault_26_a_poisoned_weight_spreads_no_further(tmp_path: Path) -> None:
    module, seen = graph(agents={"beta": agent()}, T_max=20), Optimizers()
    with torch.no_grad():
        student_of(module).network.policy_head.weight[0, 0] = float("nan")
    before = copy_of(module)
    fit(module, FixedData(random_batch(module)), tmp_path, seen)
    assert all(torch.equal(v.nan_to_num(7.0), before[k].nan_to_num(7.0)) for k, v in seen.weights[-1].items())
    assert seen.moments[-1] and not any(moment.any() for moment in seen.moments[-1])


def test_fault_26_a_teacher_that_gives_nan_trains_nothing(tmp_path: Path) -> None:
    expert = new_network(3, actions=5)
    with torch.no_grad():
        expert.policy_head.bias[1] = float("nan")
    store(tmp_path / "expert", expert, WIDE)
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module, recorder = graph(transfer(T1=30, T2=60), agents=agents), Recorder()
    fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at(F) == []
    assert recorder.changed_at(BETA) == list(range(0, 60, 10))  # until the joint loss has the teacher's part


def test_fault_26_one_agents_bad_rollout_does_not_stop_the_other(tmp_path: Path) -> None:
    module, recorder = graph(T_max=20), Recorder()
    fit(module, FixedData(spoilt(random_batch(module), float("nan"))), tmp_path, recorder)
    assert recorder.changed_at(ALPHA) == [0, 10]
    assert recorder.changed_at(BETA) == []


def test_fault_26_skipped_steps_are_counted(tmp_path: Path) -> None:
    module = graph(agents={"beta": agent()}, T_max=40, log_every=40)
    good = random_batch(module)
    bad = spoilt(good, float("nan"))
    fit(module, FixedData(good, bad, bad, good), tmp_path)
    assert module.run_log.latest["skipped_steps/student/beta"] == 2


def test_steps_that_are_taken_are_not_counted_as_skipped(tmp_path: Path) -> None:
    module = graph(transfer())
    step_once(module, tmp_path)
    assert not any(name.startswith("skipped_steps") and value for name, value in module.run_log.latest.items())


# Optimizers


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", ["student/alpha", "student/beta", "align/alpha-beta"]),
        ("code", ["student/alpha", "student/beta", "align/alpha-beta", "distill/alpha-beta"]),
    ],
)
def test_all_optimizers_exist_from_the_start_in_a_fixed_order(preset: str, expected: list[str]) -> None:
    module = graph(transfer(**PHASES), preset=preset)
    optimizers = module.configure_optimizers()
    owners = {"student/alpha": "alpha", "student/beta": "beta", "distill/alpha-beta": "beta"}
    for name, optimizer in zip(expected, optimizers, strict=True):
        owner = module.agents[owners[name]].network if name in owners else module.transfers[0].alignment
        assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in owner.parameters()}


def test_no_parameter_is_stored_twice() -> None:
    """The teacher reads its agent's network and does not own it."""
    module = graph(transfer(), transfer("beta", "alpha"))
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(module.parameters())) and not any(".teacher." in name for name in names)


def test_no_parameter_is_frozen_before_its_phase() -> None:
    assert all(p.requires_grad for p in graph(transfer(**PHASES)).parameters())


def test_rewards_that_no_step_can_take_are_said_and_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "STEPS_IN_VAIN", (3, 8))
    module = graph(agents={"beta": agent()}, T_max=1000)
    batch = random_batch(module)
    huge = {"beta": replace(batch["beta"], rewards=torch.full_like(batch["beta"].rewards, 1e38))}
    said = "gradient of student/beta was not finite in the last"
    with pytest.warns(UserWarning, match=f"{said} 3 steps"), pytest.raises(FloatingPointError, match=f"{said} 8 steps"):
        fit(module, FixedData(batch, batch, *[huge] * 20), tmp_path)
    assert module.clock == 100  # two steps that were taken, and eight in vain


def test_steps_in_vain_that_are_not_in_a_row_are_forgiven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "STEPS_IN_VAIN", (3, 8))
    module = graph(agents={"beta": agent()}, T_max=300)
    batch = random_batch(module)
    huge = {"beta": replace(batch["beta"], rewards=torch.full_like(batch["beta"].rewards, 1e38))}
    fit(module, FixedData(batch, huge, huge), tmp_path)
    assert module.clock == 300
