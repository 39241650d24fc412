"""Losses and sampling against slow references written from the formulas, identities, and extreme logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torchmetrics.functional import kl_divergence

from cdrl_pl import distributions, losses
from cdrl_pl.distributions import sample

SEEDS = st.integers(0, 2**32 - 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_softmax(z: np.ndarray, temperature: float = 1.0) -> list[float]:
    """Equation 1: h_i = exp(z_i / tau) / sum_j exp(z_j / tau)."""
    powers = [math.exp(float(x) / temperature) for x in z]
    return [x / sum(powers) for x in powers]


def slow_kl(p: list[float], q: list[float]) -> float:
    """sum_i p_i ln(p_i / q_i)."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def per_step(logits: Tensor, function: Callable[..., float], *others: Tensor) -> np.ndarray:
    """``function`` of the rows of every step and copy, in plain loops."""
    rows = [t.double().numpy() for t in (logits, *others)]
    return np.array([[function(*(r[t, b] for r in rows)) for b in range(logits.shape[1])] for t in range(len(logits))])


# The distillation and alignment KL


@given(seed=SEEDS, tau=st.sampled_from([0.5, 1.0, 4.0]))
def test_kl_equals_equation_3(seed: int, tau: float) -> None:
    target, student = 2 * normal(4, 3, 6, seed=seed), 2 * normal(4, 3, 6, seed=seed + 1)
    expected = per_step(target, lambda z, s: slow_kl(slow_softmax(z, tau), slow_softmax(s)), student)
    assert_allclose(losses.kl(target, student, tau), expected, rtol=1e-4, atol=1e-6)


@given(seed=SEEDS)
def test_reverse_kl_equals_the_formula_with_the_roles_swapped(seed: int) -> None:
    target, student = 2 * normal(4, 3, 6, seed=seed), 2 * normal(4, 3, 6, seed=seed + 1)
    expected = per_step(target, lambda z, s: slow_kl(slow_softmax(s), slow_softmax(z)), student)
    assert_allclose(losses.reverse_kl(target, student), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_kl_equals_the_one_of_torchmetrics(tau: float) -> None:
    target, student = normal(7, 3, 6), normal(7, 3, 6, seed=1)
    p, q = ((z / t).softmax(-1).flatten(0, 1) for z, t in ((target, tau), (student, 1.0)))
    expected = kl_divergence(p, q, reduction="none").view(7, 3)
    assert_allclose(losses.kl(target, student, tau), expected, rtol=1e-4)


LOGITS = hnp.arrays(np.float32, (2, 2, 4), elements=st.floats(-120, 120, width=32))


@given(target=LOGITS, student=LOGITS, tau=st.sampled_from([0.5, 1.0, 4.0]))
def test_a_kl_is_never_negative(target: np.ndarray, student: np.ndarray, tau: float) -> None:
    z, s = torch.from_numpy(target), torch.from_numpy(student)
    assert (losses.kl(z, s, tau) >= -1e-4).all() and (losses.reverse_kl(z, s) >= -1e-4).all()


@given(logits=LOGITS, shift=st.floats(-50, 50))
def test_equal_distributions_have_no_kl(logits: np.ndarray, shift: float) -> None:
    z = torch.from_numpy(logits)
    assert losses.kl(z, z).abs().max() == 0 and losses.reverse_kl(z, z).abs().max() == 0
    assert_allclose(losses.kl(z, z + shift), 0.0, atol=1e-4)


def test_the_temperature_divides_the_target_only() -> None:
    target, student, tau = normal(4, 3, 6), normal(4, 3, 6, seed=1), 2.0
    found = losses.kl(target, student, tau)
    assert_allclose(found, losses.kl(target / tau, student), rtol=1e-5)
    assert not torch.allclose(found, losses.kl(target / tau, student / tau), rtol=0.01)
    assert not torch.allclose(found, losses.kl(target, student / tau), rtol=0.01)


def test_a_high_temperature_makes_the_target_uniform() -> None:
    target, student, uniform = normal(4, 3, 6), normal(4, 3, 6, seed=1), torch.zeros(4, 3, 6)
    assert_allclose(losses.kl(target, student, 1e6), losses.kl(uniform, student), rtol=1e-3)


def test_the_gradient_of_kl_is_q_minus_p() -> None:
    target, student, tau = normal(4, 3, 6), normal(4, 3, 6, seed=1).requires_grad_(), 2.0
    losses.kl(target, student, tau).sum().backward()
    assert_allclose(student.grad, student.detach().softmax(-1) - (target / tau).softmax(-1), atol=1e-6)


@pytest.mark.parametrize("divergence", [losses.kl, losses.reverse_kl])
def test_the_target_of_a_kl_gets_no_gradient(divergence: Callable[..., Tensor]) -> None:
    target, student = normal(4, 3, 6).requires_grad_(), normal(4, 3, 6, seed=1).requires_grad_()
    divergence(target, student).sum().backward()
    assert target.grad is None
    assert student.grad is not None and student.grad.abs().max() > 0


@pytest.mark.parametrize("divergence", [losses.kl, losses.reverse_kl])
@pytest.mark.parametrize("gap", [60.0, 120.0, -120.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_fault_27_opposite_extreme_logits_have_the_exact_kl(
    divergence: Callable[..., Tensor], gap: float, autocast: bool
) -> None:
    """Both distributions are certain of different actions, so the KL is the gap between the student's own logits."""
    target = torch.tensor([[[gap, 0.0]]])
    student = torch.tensor([[[0.0, gap]]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = divergence(target, student)
    value.sum().backward()
    assert_allclose(value.detach(), abs(gap), rtol=1e-5)
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("divergence", [losses.kl, losses.reverse_kl])
@pytest.mark.parametrize("autocast", [False, True])
def test_fault_27_extreme_logits_train_a_layer_finitely(divergence: Callable[..., Tensor], autocast: bool) -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(120 * torch.eye(4)[:3])
    one_hot = torch.eye(4)[torch.tensor([[0, 1], [2, 3]])]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = divergence(-120 * one_hot[..., :3], layer(one_hot))
    value.sum().backward()
    assert value.isfinite().all() and value.max() > 100
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all() and layer.weight.grad.abs().max() > 0


# The three divergences


def slow_divergence(kind: str, p: list[float], q: list[float]) -> float:
    """The definitions over probabilities."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return {
        "forward": lambda: slow_kl(p, q),
        "reverse": lambda: slow_kl(q, p),
        "jensen_shannon": lambda: (slow_kl(p, m) + slow_kl(q, m)) / 2,
    }[kind]()


@pytest.mark.parametrize("kind", losses.DIVERGENCES)
@given(seed=SEEDS, tau=st.sampled_from([0.5, 1.0, 4.0]))
def test_a_divergence_equals_its_definition(kind: losses.Divergence, seed: int, tau: float) -> None:
    target, student = 2 * normal(4, 3, 6, seed=seed), 2 * normal(4, 3, 6, seed=seed + 1)
    expected = per_step(target, lambda z, s: slow_divergence(kind, slow_softmax(z, tau), slow_softmax(s)), student)
    assert_allclose(losses.divergence(kind, target, student, tau), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", losses.DIVERGENCES)
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_gradient_of_a_divergence_equals_finite_differences(kind: losses.Divergence, tau: float) -> None:
    target, student = 2 * normal(1, 1, 5), 2 * normal(1, 1, 5, seed=1)
    student.requires_grad_()
    losses.divergence(kind, target, student, tau).sum().backward()
    p, z, step = slow_softmax(target[0, 0].numpy(), tau), student.detach()[0, 0].double().numpy(), 1e-5
    expected = []
    for shift in step * np.eye(5):
        up, down = (slow_divergence(kind, p, slow_softmax(z + sign * shift)) for sign in (1, -1))
        expected.append((up - down) / (2 * step))
    assert student.grad is not None and max(map(abs, expected)) > 0.01
    assert_allclose(student.grad[0, 0], expected, atol=1e-5)


@given(target=LOGITS, student=LOGITS)
def test_the_jensen_shannon_divergence_is_symmetric_and_at_most_ln_2(target: np.ndarray, student: np.ndarray) -> None:
    z, s = torch.from_numpy(target), torch.from_numpy(student)
    found = losses.jensen_shannon(z, s)
    assert_allclose(found, losses.jensen_shannon(s, z), atol=1e-5)
    assert (found >= -1e-5).all() and (found <= math.log(2) + 1e-5).all()


@pytest.mark.parametrize("kind", losses.DIVERGENCES)
@given(target=LOGITS, student=LOGITS)
def test_fault_27_a_divergence_and_its_gradient_are_finite(
    kind: losses.Divergence, target: np.ndarray, student: np.ndarray
) -> None:
    s = torch.from_numpy(student).requires_grad_()
    value = losses.divergence(kind, torch.from_numpy(target), s)
    value.sum().backward()
    assert value.isfinite().all() and s.grad is not None and s.grad.isfinite().all()


@pytest.mark.parametrize("kind", losses.DIVERGENCES)
def test_a_divergence_of_equal_distributions_is_0_and_its_target_gets_no_gradient(kind: losses.Divergence) -> None:
    target, student = normal(4, 3, 6).requires_grad_(), normal(4, 3, 6, seed=1).requires_grad_()
    assert_allclose(losses.divergence(kind, student.detach(), student).detach(), 0.0, atol=1e-6)
    losses.divergence(kind, target, student).sum().backward()
    assert target.grad is None and student.grad is not None and student.grad.abs().max() > 0


def test_far_apart_the_jensen_shannon_divergence_is_ln_2() -> None:
    found = losses.jensen_shannon(torch.tensor([[[120.0, 0.0]]]), torch.tensor([[[0.0, 120.0]]]))
    assert_allclose(found, math.log(2), rtol=1e-6)


def test_fault_28_an_unknown_divergence_is_refused() -> None:
    with pytest.raises(ValueError, match="divergence is 'kl'; it must be one of forward, reverse, jensen_shannon"):
        losses.divergence("kl", normal(1, 1, 2), normal(1, 1, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_fault_28_a_temperature_that_is_not_positive_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {tau}"):
        losses.kl(normal(1, 1, 2), normal(1, 1, 2), tau)


# Reinforcement losses


@given(seed=SEEDS)
def test_entropy_equals_its_sum(seed: int) -> None:
    logits = 2 * normal(4, 3, 6, seed=seed)
    expected = per_step(logits, lambda z: -sum(p * math.log(p) for p in slow_softmax(z)))
    assert_allclose(distributions.entropy(logits), expected, rtol=1e-4, atol=1e-6)


@given(logits=LOGITS)
def test_entropy_lies_between_0_and_ln_of_the_actions(logits: np.ndarray) -> None:
    found = distributions.entropy(torch.from_numpy(logits))
    assert (found >= 0).all() and (found <= math.log(4) + 1e-5).all()


def test_the_uniform_policy_has_the_entropy_ln_of_the_actions() -> None:
    assert_allclose(distributions.entropy(torch.full((1, 1, 6), 3.0)), math.log(6), rtol=1e-6)


def test_fault_27_entropy_of_extreme_logits_is_finite_with_its_gradient() -> None:
    logits = torch.tensor([[[120.0, -120.0]]], requires_grad=True)
    value = distributions.entropy(logits)
    value.sum().backward()
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None and logits.grad.isfinite().all()


@given(seed=SEEDS)
def test_policy_loss_equals_its_loop(seed: int) -> None:
    logits, advantages = 2 * normal(4, 3, 6, seed=seed), normal(4, 3, seed=seed + 1)
    actions = torch.randint(6, (4, 3), generator=torch.Generator().manual_seed(seed))
    expected = per_step(logits, lambda z, a, adv: -math.log(slow_softmax(z)[int(a)]) * adv, actions, advantages)
    assert_allclose(losses.policy_loss(logits, actions, advantages), expected, rtol=1e-4, atol=1e-6)


def test_a_step_down_the_policy_loss_makes_a_good_action_likelier() -> None:
    logits, actions = torch.zeros(1, 1, 3, requires_grad=True), torch.tensor([[1]])
    losses.policy_loss(logits, actions, torch.ones(1, 1)).sum().backward()
    assert logits.grad is not None
    assert_allclose(-logits.grad[0, 0], [-1 / 3, 2 / 3, -1 / 3], rtol=1e-6)


def test_no_gradient_flows_through_the_advantages() -> None:
    logits, advantages = normal(2, 2, 3).requires_grad_(), normal(2, 2).requires_grad_()
    losses.policy_loss(logits, torch.zeros(2, 2, dtype=torch.int64), advantages).sum().backward()
    assert advantages.grad is None and logits.grad is not None


def test_value_loss_is_the_squared_error_with_gradient_to_the_values_only() -> None:
    values, returns = normal(3, 2).requires_grad_(), normal(3, 2, seed=1).requires_grad_()
    found = losses.value_loss(values, returns)
    assert_allclose(found.detach(), (returns.detach().numpy() - values.detach().numpy()) ** 2, rtol=1e-6)
    found.sum().backward()
    assert returns.grad is None
    assert_allclose(values.grad, 2 * (values - returns).detach(), rtol=1e-5)


def test_log_probabilities_of_all_actions_sum_to_1() -> None:
    logits = normal(2, 3, 5)
    every = torch.stack([distributions.log_prob(logits, torch.full((2, 3), a)) for a in range(5)])
    assert_allclose(every.exp().sum(0), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.kl(normal(2, 2, 3), normal(2, 2, 4)),
        lambda: losses.kl(normal(2, 2, 3), normal(2, 1, 3)),
        lambda: losses.reverse_kl(normal(2, 2, 3), normal(1, 2, 3)),
        lambda: losses.value_loss(normal(3, 2), normal(3, 1)),
        lambda: losses.value_loss(normal(3, 1), normal(3)),
        lambda: losses.policy_loss(normal(3, 2, 4), torch.zeros(3, 2, dtype=torch.int64), normal(3, 1)),
        lambda: losses.policy_loss(normal(3, 2, 4), torch.zeros(2, 2, dtype=torch.int64), normal(2, 2)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call: Callable[[], Tensor]) -> None:
    with pytest.raises(ValueError, match="shapes must be equal"):
        call()


# Reduction


def test_sum_over_one_copy_is_the_sum_over_the_rollout() -> None:
    per_step_loss = normal(5, 1)
    assert_allclose(losses.reduce(per_step_loss, "sum"), sum(per_step_loss.flatten().tolist()), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_same_copy_twice_changes_no_loss(reduction: losses.Reduction) -> None:
    per_step_loss = normal(5, 3)
    twice = torch.cat([per_step_loss, per_step_loss], 1)
    assert_allclose(losses.reduce(twice, reduction), losses.reduce(per_step_loss, reduction), rtol=1e-6)


def test_sum_grows_with_time_and_mean_does_not() -> None:
    ones = torch.ones(5, 3)
    assert (losses.reduce(ones, "sum").item(), losses.reduce(ones, "mean").item()) == (5.0, 1.0)


@pytest.mark.parametrize("shape", [(), (5,), (5, 3, 1)])
def test_reduce_refuses_what_is_not_one_value_per_step(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[T, B\]"):
        losses.reduce(torch.zeros(shape), "sum")


def test_fault_28_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction is 'average'; it must be sum or mean"):
        losses.reduce(torch.ones(2, 2), "average")  # type: ignore[arg-type]


@given(seed=SEEDS)
def test_action_statistics_equal_their_slow_references(seed: int) -> None:
    """The mean policy, and the mean divergence of the policy from it."""
    logits = (2.0 * normal(4, 3, 6, seed=seed)).requires_grad_()
    rows = [slow_softmax(z) for z in logits.detach().double().numpy().reshape(-1, 6)]
    mean, information = distributions.action_statistics(logits)
    assert_allclose(mean, np.mean(rows, 0), rtol=1e-5)
    assert_allclose(information, np.mean([slow_kl(row, list(np.mean(rows, 0))) for row in rows]), rtol=1e-4, atol=1e-6)
    assert not mean.requires_grad and not information.requires_grad


def test_policies_whose_state_information_is_known() -> None:
    """The same in every state: none. Each action certain in as many states, with extreme logits: all there is."""
    assert distributions.action_statistics(normal(6).expand(4, 3, 6))[1] == pytest.approx(0.0, abs=1e-6)
    certain = 240.0 * torch.eye(4).repeat(3, 1).view(4, 3, 4) - 120.0
    assert_allclose(distributions.action_statistics(certain)[1], math.log(4), rtol=1e-6)


# Sampling


@given(seed=SEEDS)
def test_sampling_equals_the_slow_inverse_transform(seed: int) -> None:
    logits = np.random.default_rng(seed + 1).normal(0, 2, (5, 4)).astype(np.float32)
    draws = np.random.default_rng(seed).random(5)
    for z, draw, action, log_prob in zip(logits, draws, *sample(logits, draws), strict=True):
        p = slow_softmax(z)
        assert sum(p[:action]) - 1e-6 <= draw < sum(p[: action + 1]) + 1e-6
        assert_allclose(log_prob, math.log(p[action]), rtol=1e-4, atol=1e-6)


def test_sampled_actions_have_the_policys_frequencies() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    actions, _ = sample(np.tile(logits, (100_000, 1)), np.random.default_rng(0).random(100_000))
    assert_allclose(np.bincount(actions, minlength=4) / 100_000, [0.5, 0.3, 0.15, 0.05], atol=0.006)  # 4 sigma


def test_sampled_log_probabilities_are_those_of_the_losses() -> None:
    logits = normal(50, 4)
    actions, log_probs = sample(logits.numpy(), np.random.default_rng(0).random(len(logits)))
    assert_allclose(log_probs, distributions.log_prob(logits, torch.from_numpy(actions)), rtol=1e-5, atol=1e-6)


def test_fault_27_extreme_logits_sample_the_certain_action() -> None:
    logits = np.tile(np.array([-120, 120, -120], np.float32), (1000, 1))
    actions, log_probs = sample(logits, np.random.default_rng(0).random(1000))
    assert (actions == 1).all() and (log_probs == 0).all()


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_the_ends_of_the_draw_give_valid_actions(draw: float) -> None:
    logits = np.array([[-1000, 0, 1, -1000], [0.1, 0.2, 0.3, 0.4]], np.float32)
    actions, _ = sample(logits, np.full(2, draw))
    assert actions.tolist() == ([1, 0] if draw == 0 else [2, 3])
