"""One transfer: what each loss trains, and the losses against slow references."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import copy_of, new_network, parts_with_gradient, random_rollout
from graphs import transfer as edge
from numpy.testing import assert_allclose
from torch import Tensor
from transfers import PAPER, join

from cdrl_pl import losses
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.presets import PRESETS
from cdrl_pl.transfer.transfer import Transfer
from cdrl_pl.types import Rollout, TeacherOutput


def pair(**options: Any) -> tuple[PolicyNetwork, PolicyNetwork, Transfer]:
    """A teacher of five actions, a student of two, and the transfer between them."""
    teacher, student = new_network(1, actions=5), new_network(2)
    return teacher, student, join(teacher, student, **options)


def read(network: PolicyNetwork, rollout: Rollout) -> Any:
    return network(rollout.obs, rollout.state, rollout.resets)


def slow_kl(target: Tensor, student: Tensor, tau: float) -> float:
    """Equations 1 to 3 in plain loops: the sum over time, and the mean over copies."""
    total = 0.0
    for z, s in zip(target.detach().flatten(0, 1).tolist(), student.detach().flatten(0, 1).tolist(), strict=True):
        p, q = [math.exp(x / tau) for x in z], [math.exp(x) for x in s]
        total += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return total / target.shape[1]


# What each loss trains


def test_advice_has_no_gradient() -> None:
    _, _, transfer = pair()
    assert not transfer.ask(random_rollout()).logits.requires_grad


def test_distillation_trains_trunk_memory_and_distillation_layer_alone() -> None:
    teacher, student, transfer = pair()
    rollout = random_rollout()
    aligned = transfer.alignment(transfer.ask(rollout).logits)
    assert aligned.requires_grad  # the loss itself must stop the gradient
    transfer.distillation_loss(read(student, rollout), aligned).backward()
    assert parts_with_gradient(student) == {"trunk", "lstm", "distill_head"}
    assert all(p.grad is None for p in (*transfer.alignment.parameters(), *teacher.parameters()))


def test_distillation_into_the_policy_layer_leaves_the_distillation_layer() -> None:
    teacher, student = new_network(1), new_network(2)
    transfer, rollout = join(teacher, student, "identity", layer="policy"), random_rollout()
    transfer.distillation_loss(read(student, rollout), transfer.alignment(transfer.ask(rollout).logits)).backward()
    assert parts_with_gradient(student) == {"trunk", "lstm", "policy_head"}
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_alignment_trains_f_alone(preset: str) -> None:
    teacher, student, transfer = pair(preset=PRESETS[preset])
    rollout = random_rollout()
    transfer.alignment_loss(read(student, rollout), transfer.ask(rollout)).backward()
    assert all(p.grad is not None and p.grad.any() for p in transfer.alignment.parameters())
    assert all(p.grad is None for p in (*student.parameters(), *teacher.parameters()))


# The losses


@pytest.mark.parametrize("layer", ["distillation", "policy"])
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_distillation_loss_is_the_kl_to_the_aligned_logits(tau: float, layer: Any) -> None:
    student = new_network(2)
    transfer = join(new_network(1, actions=2), student, temperature=tau, layer=layer)
    rollout = random_rollout(ends=0.5)
    output, aligned = read(student, rollout), 4 * transfer.alignment(transfer.ask(rollout).logits)
    logits = output.distill_logits if layer == "distillation" else output.logits
    expected = slow_kl(aligned, logits[:5], tau)
    assert_allclose(transfer.distillation_loss(output, aligned).item(), expected, rtol=1e-4)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_alignment_loss_is_the_kl_to_the_students_policy(tau: float) -> None:
    _, student, transfer = pair(temperature=tau)
    rollout = random_rollout(ends=0.5)
    output, teacher_logits = read(student, rollout), transfer.ask(rollout).logits
    expected = slow_kl(output.logits[:5], transfer.alignment(teacher_logits), tau)
    assert_allclose(transfer.alignment_loss(output, TeacherOutput(teacher_logits)).item(), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_each_loss_has_the_divergence_that_it_is_told(kind: losses.Divergence) -> None:
    teacher, student = new_network(1, actions=5), new_network(2)
    config = edge("alpha", "beta", temperature=2.0, divergence=kind)
    config.alignment.divergence = kind
    transfer = Transfer(config, teacher, student, PAPER)
    output = read(student, random_rollout())
    teacher_logits = transfer.ask(random_rollout(), teacher, student).logits
    aligned = transfer.alignment(teacher_logits)
    expected = losses.divergence(kind, aligned, output.distill_logits[:5], 2.0).mean(1).sum()
    assert_allclose(transfer.distillation_loss(output, aligned).item(), expected.item(), rtol=1e-6)
    expected = losses.divergence(kind, output.logits[:5], aligned, 2.0).mean(1).sum()
    assert_allclose(transfer.alignment_loss(output, TeacherOutput(teacher_logits)).item(), expected.item(), rtol=1e-6)


def test_without_a_divergence_of_its_own_the_alignment_has_the_readings() -> None:
    _, student, transfer = pair(preset=replace(PAPER, alignment_kl="reverse"))
    output, teacher_logits = read(student, random_rollout()), transfer.ask(random_rollout()).logits
    expected = losses.reverse_kl(output.logits[:5], transfer.alignment(teacher_logits)).mean(1).sum()
    assert_allclose(transfer.alignment_loss(output, TeacherOutput(teacher_logits)).item(), expected.item(), rtol=1e-6)


def test_a_temperature_goes_to_its_end_from_the_transfers_start() -> None:
    _, student, transfer = pair(T1=100, T2=200, temperature=4.0, temperature_end=1.0, temperature_steps=100)
    output, aligned = read(student, random_rollout()), transfer.alignment(transfer.ask(random_rollout()).logits)
    for env_steps, tau in ((0, 4.0), (100, 4.0), (150, 2.5), (200, 1.0), (2**33, 1.0)):
        transfer.advance(env_steps, None)
        assert transfer.temperature == tau
        expected = slow_kl(aligned, output.distill_logits[:5], tau)
        assert_allclose(transfer.distillation_loss(output, aligned).item(), expected, rtol=1e-4)


def test_the_identitys_temperature_counts_from_t2() -> None:
    options = {"T2": 200, "temperature": 4.0, "temperature_end": 1.0, "temperature_steps": 100}
    transfer = join(new_network(1), new_network(2), "identity", **options)
    transfer.advance(250, None)
    assert transfer.temperature == 2.5


def test_tau_squared_multiplies_the_distillation_loss() -> None:
    losses_ = []
    for squared in (False, True):
        _, student, transfer = pair(temperature=3.0, temperature_squared=squared)
        output, teacher_logits = read(student, random_rollout()), transfer.ask(random_rollout()).logits
        losses_.append(transfer.distillation_loss(output, transfer.alignment(teacher_logits)).item())
    assert_allclose(losses_[1], 9 * losses_[0], rtol=1e-6)


def test_equal_networks_joined_by_the_identity_have_nothing_to_distil() -> None:
    network = new_network(1)
    with torch.no_grad():
        network.distill_head.load_state_dict(network.policy_head.state_dict())
    rollout = replace(random_rollout(ends=0.3), state=torch.zeros(2, 8))
    for layer in ("distillation", "policy"):
        transfer = join(network, network, "identity", layer=layer)
        loss = transfer.distillation_loss(read(network, rollout), transfer.alignment(transfer.ask(rollout).logits))
        assert_allclose(loss.item(), 0.0, atol=1e-6)


def test_different_networks_joined_by_the_identity_have_something_to_distil() -> None:
    """The control of the test above."""
    transfer, rollout = join(new_network(1), new_network(2), "identity"), random_rollout()
    loss = transfer.distillation_loss(read(new_network(2), rollout), transfer.alignment(transfer.ask(rollout).logits))
    assert loss.item() > 0.1


def test_the_identity_passes_the_logits_on_and_has_nothing_to_train() -> None:
    transfer = join(new_network(1), new_network(2), "identity")
    teacher_logits = transfer.ask(random_rollout()).logits
    assert torch.equal(transfer.alignment(teacher_logits), teacher_logits)
    assert not transfer.alignment.trainable and not list(transfer.alignment.parameters())


def test_alignment_learns_to_reproduce_the_students_policy() -> None:
    """Five actions to two: the KL falls to almost 0 on one rollout, and the student stays."""
    _, student, transfer = pair()
    rollout, before = random_rollout(steps=3), copy_of(student)
    output, teacher_logits = read(student, rollout), transfer.ask(rollout).logits
    adam = torch.optim.Adam(transfer.alignment.parameters(), 3e-2)
    found = []
    for _ in range(300):
        adam.zero_grad()
        loss = transfer.alignment_loss(output, TeacherOutput(teacher_logits))
        loss.backward()
        adam.step()
        found.append(loss.item())
    assert found[0] > 0.3 and found[-1] < 0.01 * found[0]
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
