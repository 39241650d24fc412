"""The action distributions callback (Figure 5) and the entropy schedule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from graphs import FixedData, fit, graph, random_batch, random_rollout, transfer
from pytorch_lightning.loggers import CSVLogger
from wide_cartpole import CARTPOLE

from callbacks import ActionDistributions
from cdrl_pl.agents.student import LearnerConfig, Student
from cdrl_pl.envs import EnvConfig
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.schedule import linear


def lines(folder: Path) -> list[dict]:
    (path,) = folder.rglob("action_distributions.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_distributions_are_named_and_sum_to_one(tmp_path: Path) -> None:
    module = graph(transfer(), T_max=40)
    fit(module, FixedData(random_batch(module)), tmp_path, ActionDistributions(every=20), logger=CSVLogger(tmp_path))
    written = lines(tmp_path)
    assert [line["env_steps"] for line in written] == [20, 40]
    last = written[-1]
    assert set(last) == {"env_steps", "alpha", "beta", "alpha-beta/teacher", "alpha-beta/aligned"}
    assert len(last["alpha"]) == len(last["alpha-beta/teacher"]) == 5
    assert len(last["beta"]) == len(last["alpha-beta/aligned"]) == 2
    for source, named in last.items():
        if source != "env_steps":
            assert sum(named.values()) == pytest.approx(1.0, abs=1e-3)


def test_a_transfer_that_has_not_started_has_no_distribution(tmp_path: Path) -> None:
    module = graph(transfer(T1=1000, T2=1000), T_max=20)
    fit(module, FixedData(random_batch(module)), tmp_path, ActionDistributions(), logger=CSVLogger(tmp_path))
    assert set(lines(tmp_path)[-1]) == {"env_steps", "alpha", "beta"}


def test_every_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every is 0; it must be 1 or more"):
        ActionDistributions(every=0)


@pytest.mark.parametrize(("env_steps", "wanted"), [(0, 0.1), (25, 0.08), (100, 0.02), (10**10, 0.02)])
def test_linear_goes_from_start_to_end(env_steps: int, wanted: float) -> None:
    assert linear(0.1, 0.02, 100, env_steps) == pytest.approx(wanted)


def test_linear_without_end_is_constant() -> None:
    assert linear(0.1, None, 1, 50) == 0.1


def test_the_entropy_bonus_follows_its_schedule() -> None:
    learner = LearnerConfig(entropy_coef=0.5, entropy_end=0.1, entropy_steps=100)
    student = Student(EnvConfig(CARTPOLE), NetworkConfig("mlp", hidden=8, lstm=4), learner)
    rollout = random_rollout()
    output = student(rollout)
    early, late = (student.reinforcement_losses(output, rollout, env_steps=t) for t in (0, 100))
    torch.testing.assert_close(late.total - early.total, 0.4 * early.entropy)


@pytest.mark.parametrize(("option", "value"), [("entropy_end", -1.0), ("entropy_steps", 0)])
def test_wrong_entropy_schedules_are_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"learner.{option} is {value}"):
        LearnerConfig(**{option: value})
