"""Gates: which states count, against numbers worked out by hand, and what they change in a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import FixedData, agent, copy_of, fit, graph, new_network, random_batch, random_rollout, spread, store
from graphs import transfer as edge
from numpy.testing import assert_allclose
from resuming import SaveAt, differences, final_state
from torch import Tensor
from transfers import join
from wide_cartpole import WIDE

from cdrl_pl import losses
from cdrl_pl.checks import ConfigError
from cdrl_pl.presets import PRESETS
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.gate import GATES, row_weights
from cdrl_pl.transfer.transfer import Transfer


def rows(*logits: list[float]) -> Tensor:
    """Rows [N, 1, k]."""
    return torch.tensor(logits)[:, None]


def weights(gate: Any, *logits: list[float], counts: tuple[int, ...] = ()) -> list[float]:
    found = row_weights(gate, rows(*logits), counts)
    assert found is not None
    return list(found[:, 0].tolist())


def test_certainty_is_one_minus_the_share_of_the_largest_entropy() -> None:
    half = [0.0, 0.0, -1e9, -1e9]  # two of four actions
    found = weights("entropy", [0.0] * 4, [50.0, 0.0, 0.0, 0.0], half)
    assert_allclose(found, [0.0, 1.0, 1 - math.log(2) / math.log(4)], atol=1e-6)


def test_certainty_in_several_choices_is_that_of_all_of_them() -> None:
    sure, unsure = [50.0, 0.0], [0.0, 0.0, 0.0]
    found = weights("entropy", sure + unsure, counts=(2, 3))
    assert_allclose(found, [1 - math.log(3) / (math.log(2) + math.log(3))], atol=1e-6)


def test_familiarity_is_by_the_energy_beside_the_other_rows() -> None:
    """Energies a-1, a and a+1 have the standard deviation sqrt(2/3)."""
    found = weights("energy", [1.0, 1.0], [2.0, 2.0], [3.0, 3.0])
    z = 1 / math.sqrt(2 / 3)
    assert_allclose(found, [1 / (1 + math.exp(z)), 0.5, 1 / (1 + math.exp(-z))], atol=1e-6)


def test_where_all_states_are_as_familiar_each_counts_half() -> None:
    assert_allclose(weights("energy", [1.0, 2.0], [2.0, 1.0]), [0.5, 0.5], atol=1e-6)


def test_a_constant_beside_all_logits_is_no_certainty_but_is_familiarity() -> None:
    plain, moved = ([0.0, 1.0], [0.5, 0.0]), ([0.0, 1.0], [7.5, 7.0])
    assert_allclose(weights("entropy", *plain), weights("entropy", *moved), atol=1e-6)
    assert weights("energy", *plain)[0] > 0.5 > weights("energy", *plain)[1]
    assert weights("energy", *moved)[1] > 0.5 > weights("energy", *moved)[0]


def test_without_a_gate_nothing_is_computed() -> None:
    assert row_weights("none", rows([0.0, 1.0])) is None


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_of_every_state_counts_by_its_weight(reduction: Any) -> None:
    teacher, student = new_network(1, actions=5), new_network(2)
    preset = replace(PRESETS["paper"], kl_reduction=reduction)
    transfer, rollout = join(teacher, student, gate="entropy", preset=preset), random_rollout()
    transfer.distilling = True
    output, said = student(rollout.obs, rollout.state, rollout.resets), transfer.ask(rollout)
    lesson = transfer.lesson(output, said)
    p = said.logits.double().softmax(-1)
    certain = 1 + (p * p.log()).sum(-1) / math.log(5)
    per_step = losses.kl(lesson.aligned_logits, output.distill_logits[:5]).double() * certain
    expected = per_step.mean(1).sum() if reduction == "sum" else per_step.mean()
    assert lesson.distillation_loss is not None
    assert_allclose(lesson.distillation_loss.item(), expected.item(), rtol=1e-5)
    assert_allclose(lesson.metrics["gate/alpha-beta"].item(), certain.mean().item(), rtol=1e-5)


def make(
    folder: Path, uncertain: bool = False, T_max: int = 120, preset: str = "paper", **options: Any
) -> Collaboration:
    """A teacher of five actions, certain or not, and a student of two."""
    expert = new_network(3, actions=5)
    if uncertain:
        with torch.no_grad():
            for parameter in expert.policy_head.parameters():
                parameter.zero_()
    store(folder / "expert", expert, WIDE)
    agents = {"alpha": AgentConfig(certificate=str(folder / "expert")), "beta": agent()}
    module = graph(edge(**options), agents=agents, T_max=T_max, preset=preset)
    spread(module.agents["beta"].network)
    return module


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_a_teacher_that_is_never_certain_teaches_nothing(tmp_path: Path, preset: str) -> None:
    """In the joint step and in the separate one: the student learns as if its distillation had no weight."""

    def moved(gate: Any, uncertain: bool) -> bool:
        module = make(tmp_path, uncertain, T_max=10, preset=preset, gate=gate)
        before = module.agents["beta"].network.distill_head.weight.clone()
        fit(module, FixedData(random_batch(module)), tmp_path)
        return not torch.equal(module.agents["beta"].network.distill_head.weight, before)

    assert not moved("entropy", uncertain=True)
    assert moved("entropy", uncertain=False) and moved("none", uncertain=True)


@pytest.mark.parametrize("gate", ["entropy", "energy"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, gate: Any) -> None:
    def run(**options: Any) -> Any:
        module = make(tmp_path, gate=gate, T1=20, T2=60)
        batches = [random_batch(module, seed) for seed in range(12)]
        start = int(options["ckpt_path"].stem) // 10 if "ckpt_path" in options else 0
        return final_state(module, fit(module, FixedData(*batches[start:]), tmp_path, SaveAt(tmp_path, 80), **options))

    whole = run()
    assert differences(run(ckpt_path=tmp_path / "80.ckpt"), whole) == []


def test_gates_differ_and_are_logged(tmp_path: Path) -> None:
    found = {}
    for gate in GATES:
        module = make(tmp_path, gate=gate)
        fit(module, FixedData(random_batch(module)), tmp_path)
        found[gate] = copy_of(module.agents["beta"])
        assert ("gate/alpha-beta" in module.run_log.latest) == (gate != "none")
    assert len({tuple(weights["network.distill_head.bias"].tolist()) for weights in found.values()}) == 3


def test_a_gate_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"transfer alpha-beta: gate is 'advice'; it must be none, entropy, energy"):
        Transfer(edge(gate="advice"), new_network(1), new_network(2), PRESETS["paper"])
