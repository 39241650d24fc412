"""The negative-transfer alarm: the cosine between both gradients on the trunk, and the release of a weight."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import FixedData, copy_of, fit, graph, new_network, random_batch, random_rollout, transfer
from numpy.testing import assert_allclose
from torch.testing import assert_close
from weightings import logged, trained

from cdrl_pl.agents.student import Student
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.transfer.weighting import AlarmConfig, WeightConfig, Weighting, compare_gradients
from cdrl_pl.types import Rollout


def test_the_cosine_is_that_of_two_backward_passes() -> None:
    network, rollout = new_network(), random_rollout()
    parameters = list(network.trunk.parameters())
    gradients = []
    for pick in ("logits", "values", None):
        output = network(rollout.obs, rollout.state, rollout.resets)
        one, other = output.logits.square().sum(), output.values.sin().sum()
        if pick is None:
            found = compare_gradients(one, other, parameters)
            (one + other).backward()  # both graphs are still there
            continue
        network.zero_grad()
        (one if pick == "logits" else other).backward()
        gradients.append(np.concatenate([p.grad.double().numpy().ravel() for p in parameters if p.grad is not None]))
        network.zero_grad()
    a, b = gradients
    assert_allclose(found.cosine, a @ b / math.sqrt((a @ a) * (b @ b)), rtol=1e-4)
    assert_allclose(found.ratio, math.sqrt((b @ b) / (a @ a)), rtol=1e-4)


@pytest.mark.parametrize(("factor", "expected"), [(3.0, 1.0), (-0.1, -1.0), (0.0, 0.0)])
def test_the_cosine_of_a_loss_with_its_multiple(factor: float, expected: float) -> None:
    network, rollout = new_network(), random_rollout()
    loss = network(rollout.obs, rollout.state, rollout.resets).logits.square().sum()
    found = compare_gradients(loss, factor * loss, list(network.trunk.parameters()))
    assert_allclose(found.cosine, expected, atol=1e-5)
    assert_allclose(found.ratio, abs(factor), atol=1e-5)
    assert all(p.grad is None for p in network.parameters())


def test_a_loss_that_does_not_reach_the_trunk_has_the_cosine_0() -> None:
    network, rollout = new_network(), random_rollout()
    loss = network(rollout.obs, rollout.state, rollout.resets).logits.square().sum()
    other = network.value_head.bias.sum()
    assert compare_gradients(loss, other, list(network.trunk.parameters())) == (0.0, 0.0)


def judged(config: AlarmConfig, *cosines: float) -> tuple[Weighting, list[float]]:
    guide = Weighting("alpha-beta", WeightConfig(start=2.0), config)
    weights = []
    for cosine in cosines:
        guide.update_alarm(cosine)
        weights.append(guide.weight)
    return guide, weights


def test_the_alarm_releases_the_weight_while_the_average_is_low() -> None:
    with pytest.warns(UserWarning, match="alpha-beta.*against the reinforcement gradient.*is 0 until it recovers"):
        _, weights = judged(AlarmConfig(span=2, release_below=-0.2), -0.9, -0.5, -0.5, 0.4, 0.8, -0.1)
    assert weights == [2.0, 0.0, 0.0, 2.0, 2.0, 2.0]  # the averages are -0.9, -0.7, -0.6, -0.1, 0.35, 0.125


def test_one_bad_measurement_is_no_alarm(recwarn: pytest.WarningsRecorder) -> None:
    guide, weights = judged(AlarmConfig(span=3, release_below=0.0), 0.5, 0.5, 0.5, -0.4, 0.5)
    assert weights == [2.0] * 5 and not guide.tripped and not recwarn.list


def test_an_alarm_without_release_warns_once_and_leaves_the_weight(recwarn: pytest.WarningsRecorder) -> None:
    guide, weights = judged(AlarmConfig(span=1), 0.5, -0.1, 0.5, -0.2)
    assert weights == [2.0] * 4 and guide.tripped
    (warning,) = recwarn.list
    assert "it may hurt" in str(warning.message)


def contrary(module: Collaboration, rollout: Rollout, sign: float) -> None:
    """The only transfer's loss becomes the student's own reinforcement loss, or its opposite."""
    student = module.agents["beta"]
    assert isinstance(student, Student)
    module.transfers[0].distillation_loss = lambda output, aligned, weights: (  # type: ignore[method-assign]
        sign * student.reinforcement_losses(output, rollout).total
    )


@pytest.mark.filterwarnings("ignore:transfer alpha-beta")
@pytest.mark.parametrize(("sign", "weight"), [(1.0, 3.0), (-1.0, 0.0)])
def test_a_transfer_that_works_against_the_rewards_is_released(tmp_path: Path, sign: float, weight: float) -> None:
    alarm = AlarmConfig(every=2, span=2, release_below=0.0)
    module = graph(transfer(weight=3.0, alarm=alarm), T_max=60)
    batch = random_batch(module)
    contrary(module, batch["beta"], sign)
    lines = logged(module, tmp_path, batch)
    cosines = lines.of("gradient_cosine/alpha-beta")
    assert cosines[1::2] == [None] * 3 and cosines[::2] == pytest.approx([sign] * 3, abs=1e-4)
    assert lines.of("distillation_weight/alpha-beta") == [3.0, 3.0, weight, weight, weight, weight]
    assert lines.lines[-2]["time/alarm"] > 0


@pytest.mark.filterwarnings("ignore:transfer alpha-beta")
def test_a_released_student_learns_as_if_it_had_no_teacher(tmp_path: Path) -> None:
    states = []
    for edges in ([transfer(alarm=AlarmConfig(every=1, span=1, release_below=1.0))], []):
        module = graph(*edges, T_max=60)
        if edges:
            module.transfers[0].weighting.update_alarm(-1.0)
        fit(module, FixedData(*(random_batch(module, seed) for seed in range(3))), tmp_path)
        states.append({k: v for k, v in copy_of(module).items() if k.startswith("_agents.beta")})
    for key, value in states[0].items():
        assert_close(value, states[1][key], rtol=0.0, atol=0.0)


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    plain, watched = (trained(tmp_path, alarm=a) for a in (None, AlarmConfig(every=1, span=1000)))
    assert all(torch.equal(plain[k], watched[k]) for k in plain)
