"""Several teachers of one student, weighed by the value of what they advise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from graphs import HEADS, agent, graph, new_network, random_rollout, store, transfer
from hypothesis import given
from numpy.testing import assert_allclose
from torch import Tensor
from weightings import logged

from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.weighting import TeacherWeights, WeightConfig, Weighting, set_teacher_factors, teacher_value
from cdrl_pl.types import Rollout


def slow_value(target: Tensor, logits: Tensor, actions: Tensor, advantages: Tensor) -> float:
    """Each decision by itself: how much likelier the teacher would have taken it, times what it was worth."""
    worth = advantages.double().numpy()
    worth = (worth - worth.mean()) / worth.std()
    total = 0.0
    for t, b in np.ndindex(worth.shape):
        p, q = (np.exp(z[t, b].double().numpy()) for z in (target, logits))
        a = int(actions[t, b])
        total += (min(2.0, (p / p.sum())[a] / (q / q.sum())[a]) - 1.0) * worth[t, b]
    return float(total / worth.size)


def decisions(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A teacher's logits, the student's, its actions, and their advantages."""
    make = torch.Generator().manual_seed(seed)
    target, logits, advantages = (torch.randn(*s, generator=make) for s in ((6, 3, 4), (6, 3, 4), (6, 3)))
    return 2 * target, logits, torch.randint(4, (6, 3), generator=make), 5 + 3 * advantages


@given(seed=st.integers(0, 2**32 - 1))
def test_a_teachers_value_equals_its_slow_reference(seed: int) -> None:
    given_ = decisions(seed)
    assert_allclose(teacher_value(*given_).item(), slow_value(*given_), rtol=1e-4, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
def test_a_teachers_value_has_no_unit_and_does_not_heed_a_biased_critic(seed: int, scale: float, shift: float) -> None:
    target, logits, actions, advantages = decisions(seed)
    found = teacher_value(target, logits, actions, scale * advantages + shift)
    assert_allclose(found, teacher_value(target, logits, actions, advantages), atol=1e-2)
    assert found.abs() <= 1 + 1e-6


def test_a_teacher_who_does_as_the_student_has_no_value() -> None:
    _, logits, actions, advantages = decisions(0)
    assert_allclose(teacher_value(logits + 3, logits, actions, advantages), 0.0, atol=1e-6)


def test_advantages_that_are_all_equal_tell_nothing_of_a_teacher() -> None:
    target, logits, actions, advantages = decisions(0)
    assert teacher_value(target, logits, actions, torch.full_like(advantages, 7.0)) == 0.0


def test_a_teacher_of_the_better_action_has_the_value_known_beforehand() -> None:
    """A uniform student of two actions, of which 0 pays: always 0 doubles its probability and ends that of 1."""
    actions = torch.tensor([[0, 1]] * 4)
    worth = torch.where(actions == 0, 10.0, -30.0)
    student, always_0 = torch.zeros(4, 2, 2), torch.tensor([50.0, -50.0]).expand(4, 2, 2)
    assert_allclose(teacher_value(always_0, student, actions, worth), 1.0, rtol=1e-6)
    assert_allclose(teacher_value(-always_0, student, actions, worth), -1.0, rtol=1e-6)


def test_fault_27_extreme_logits_give_a_finite_value() -> None:
    _, logits, actions, advantages = decisions(0)
    found = teacher_value(-120 * logits.sign(), 120 * logits.sign(), actions, advantages)
    assert found.isfinite() and found.abs() <= 1


def test_a_value_of_advantages_of_another_shape_is_refused() -> None:
    target, logits, actions, advantages = decisions(0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        teacher_value(target, logits, actions, advantages[:, :1])


def guides(*values: float) -> list[Weighting]:
    made = [Weighting(str(i), WeightConfig(start=2.0), None) for i in range(len(values))]
    for guide, value in zip(made, values, strict=True):
        guide.value.add(value, 1)
    return made


def test_factors_are_a_softmax_of_the_values_times_the_number_of_teachers() -> None:
    made = guides(0.3, 0.1, -0.2)
    set_teacher_factors(made, TeacherWeights("value", sharpness=5.0))
    powers = [math.exp(5 * v) for v in (0.3, 0.1, -0.2)]
    expected = [3 * p / sum(powers) for p in powers]
    assert [g.factor for g in made] == pytest.approx(expected)
    assert [g.weight for g in made] == pytest.approx([2 * factor for factor in expected])


@pytest.mark.parametrize("config", [TeacherWeights(), TeacherWeights("value", sharpness=0.0)])
def test_fixed_weights_and_no_sharpness_leave_every_weight_as_it_is(config: TeacherWeights) -> None:
    made = guides(0.9, -0.9)
    set_teacher_factors(made, config)
    assert [g.weight for g in made] == [2.0, 2.0]


def test_an_only_teacher_has_the_factor_1() -> None:
    made = guides(-0.9)
    set_teacher_factors(made, TeacherWeights("value", sharpness=1e6))
    assert made[0].factor == 1.0
    set_teacher_factors([], TeacherWeights("value"))


def stubborn(action: int) -> PolicyNetwork:
    """A teacher that always takes this action of two."""
    network = new_network(action)
    with torch.no_grad():
        for head in HEADS:
            for parameter in getattr(network, head).parameters():
                parameter.zero_()
        network.policy_head.bias[action] = 20.0
    return network


def paid_for_0(module: Collaboration, seed: int = 0) -> dict[str, Rollout]:
    rollout = random_rollout(seed, steps=10, ends=0.0)
    return {"beta": replace(rollout, rewards=torch.where(rollout.actions == 0, 1.0, -1.0))}


def two_teachers(folder: Path, temperature: float = 1.0, **options: Any) -> Collaboration:
    """One teacher always takes the action that pays, the other never."""
    agents: dict[str, AgentConfig] = {"beta": replace(agent(gamma=0.0), **options)}
    for name, action in (("good", 0), ("bad", 1)):
        store(folder / name, stubborn(action))
        agents[name] = AgentConfig(certificate=str(folder / name))
    edges = [transfer(name, kind="identity", temperature=temperature) for name in ("good", "bad")]
    return graph(*edges, agents=agents, T_max=20 * 30)


def test_a_student_learns_which_of_two_teachers_to_listen_to(tmp_path: Path) -> None:
    module = two_teachers(tmp_path, teacher_weights=TeacherWeights("value", sharpness=2.0, span=5))
    batches = [paid_for_0(module, seed) for seed in range(5)]
    lines = logged(module, tmp_path, *batches)
    good, bad = ([x for x in lines.of(f"distillation_weight/{name}-beta") if x is not None] for name in ("good", "bad"))
    assert good[0] == bad[0] == 1.0  # nothing is known yet
    assert good[1] > 1.5 and bad[1] < 0.5
    assert [a + b for a, b in zip(good, bad, strict=True)] == pytest.approx([2.0] * len(good), rel=1e-5)
    assert (lines.of("teacher_value/good-beta")[0] or 0) > 0.5 and (lines.of("teacher_value/bad-beta")[0] or 0) < -0.5
    bias = module.agents["beta"].network.distill_head.bias
    assert bias[0] > bias[1]  # and it does what the good one says


def test_a_teachers_value_is_that_of_what_the_student_is_told(tmp_path: Path) -> None:
    """At tau = 20 a teacher whose logits are 20 and 0 asks for the first action in 73 of 100 cases only."""
    module = two_teachers(tmp_path, temperature=20.0, teacher_weights=TeacherWeights("value"))
    batch, student = paid_for_0(module), module.agents["beta"]
    with torch.no_grad():
        output = student(batch["beta"])
    told = torch.tensor([1.0, 0.0]).expand(10, 2, 2)
    worth = batch["beta"].rewards - output.values[:10]
    expected = slow_value(told, output.logits[:10], batch["beta"].actions, worth)
    found = logged(module, tmp_path, batch).of("teacher_value/good-beta")[0]
    assert found == pytest.approx(expected, rel=1e-3) and 0.1 < expected < 0.6


def test_with_fixed_weights_two_teachers_count_alike(tmp_path: Path) -> None:
    """The control of the test above."""
    module = two_teachers(tmp_path)
    lines = logged(module, tmp_path, paid_for_0(module))
    assert {*lines.of("distillation_weight/good-beta"), *lines.of("distillation_weight/bad-beta")} == {1.0}
    assert "teacher_value/good-beta" not in lines.lines[-1]
