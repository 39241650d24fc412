"""Advantages and returns against slow references, identities, and an answer known without computing."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from numpy.testing import assert_allclose

from cdrl_pl.returns import gae, next_values, vtrace

Inputs = dict[str, torch.Tensor]


def random_inputs(seed: int, steps: int = 7, copies: int = 3, ends: float = 0.5) -> Inputs:
    """A rollout in which about ``ends`` of the steps end an episode, half of them by truncation, some by both."""
    rng = np.random.default_rng(seed)
    shape = (steps, copies)
    terminated = rng.random(shape) < ends / 2
    truncated = rng.random(shape) < ends / 2
    return {
        "rewards": torch.from_numpy(rng.normal(size=shape)),
        "values": torch.from_numpy(rng.normal(size=(steps + 1, copies))),
        "terminated": torch.from_numpy(terminated),
        "truncated": torch.from_numpy(truncated),
        "final_values": torch.from_numpy(rng.normal(size=shape)),
    }


def slow_gae(inputs: Inputs, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the paper written out: A_t = sum_k (gamma lam)^k delta_{t+k}, R_t = sum_k gamma^k r_{t+k} + end."""
    r, v, terminated, truncated, final = (tensor.numpy() for tensor in inputs.values())
    steps, copies = r.shape
    advantages, returns = np.zeros((steps, copies)), np.zeros((steps, copies))
    for b in range(copies):
        for start in range(steps):
            for k, t in enumerate(range(start, steps)):
                after = 0.0 if terminated[t, b] else final[t, b] if truncated[t, b] else v[t + 1, b]
                advantages[start, b] += (gamma * lam) ** k * (r[t, b] + gamma * after - v[t, b])
                returns[start, b] += gamma**k * r[t, b]
                if terminated[t, b] or truncated[t, b] or t == steps - 1:
                    returns[start, b] += gamma ** (k + 1) * after
                    break
    return advantages, returns


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 9),
    ends=st.sampled_from([0.0, 0.3, 1.0]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_gae_equals_the_slow_sums(seed: int, steps: int, ends: float, gamma: float, lam: float) -> None:
    inputs = random_inputs(seed, steps, ends=ends)
    advantages, returns = gae(**inputs, gamma=gamma, lam=lam)
    expected_advantages, expected_returns = slow_gae(inputs, gamma, lam)
    assert_allclose(advantages, expected_advantages, atol=1e-12)
    assert_allclose(returns, expected_returns, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_with_lambda_1_the_advantage_is_return_minus_value(seed: int) -> None:
    inputs = random_inputs(seed)
    advantages, returns = gae(**inputs, gamma=0.97, lam=1.0)
    assert_allclose(advantages, returns - inputs["values"][:-1], atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_with_lambda_0_the_advantage_is_the_one_step_error(seed: int) -> None:
    inputs = random_inputs(seed)
    advantages, _ = gae(**inputs, gamma=0.97, lam=0.0)
    ends = (inputs["terminated"], inputs["truncated"], inputs["final_values"])
    one_step = inputs["rewards"] + 0.97 * next_values(inputs["values"], *ends) - inputs["values"][:-1]
    assert_allclose(advantages, one_step, atol=1e-12)


def perfect_critic(truncation_is_terminal: bool) -> torch.Tensor:
    """Advantages where every reward is 1, every value the endless return 1 / (1 - gamma), and every third step cuts."""
    gamma, steps = 0.5, 8
    cuts = torch.arange(steps).unsqueeze(1) % 3 == 2
    nothing = torch.zeros_like(cuts)
    endless = 1 / (1 - gamma)
    advantages, _ = gae(
        torch.ones(steps, 1),
        torch.full((steps + 1, 1), endless),
        cuts if truncation_is_terminal else nothing,
        nothing if truncation_is_terminal else cuts,
        torch.where(cuts, endless, 0.0),
        gamma,
        0.8,
    )
    return advantages


def test_a_perfect_critic_has_no_advantage_across_truncations() -> None:
    assert torch.equal(perfect_critic(truncation_is_terminal=False), torch.zeros(8, 1))


def test_a_time_limit_taken_for_a_terminal_breaks_the_perfect_critic() -> None:
    """The control of the test above: by hand, the step before such an end loses gamma times the endless return, 1."""
    advantages = perfect_critic(truncation_is_terminal=True).squeeze(1)
    assert_allclose(advantages, [-0.16, -0.4, -1, -0.16, -0.4, -1, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("how", ["terminated", "truncated"])
def test_nothing_leaks_across_the_end_of_an_episode(how: str) -> None:
    first, second = random_inputs(1, ends=0.0), random_inputs(2, ends=0.3)
    end = 3
    first[how][end] = True
    changed = {k: torch.cat([first[k][: end + 1], second[k][end + 1 :]]) for k in first}
    before = [x[: end + 1] for x in gae(**first, gamma=0.9, lam=0.8)]
    after = [x[: end + 1] for x in gae(**changed, gamma=0.9, lam=0.8)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_an_end_the_future_does_matter() -> None:
    """The control of the test above."""
    first, second = random_inputs(1, ends=0.0), random_inputs(2, ends=0.0)
    changed = {k: torch.cat([first[k][:4], second[k][4:]]) for k in first}
    before, after = gae(**first, gamma=0.9, lam=0.8), gae(**changed, gamma=0.9, lam=0.8)
    assert all((a[:4] != b[:4]).all() for a, b in zip(before, after, strict=True))


def test_final_values_are_read_only_where_truncated() -> None:
    inputs = random_inputs(3)
    used = inputs["truncated"] & ~inputs["terminated"]
    poisoned = {**inputs, "final_values": inputs["final_values"].masked_fill(~used, float("nan"))}
    expected, found = gae(**inputs, gamma=0.9, lam=0.8), gae(**poisoned, gamma=0.9, lam=0.8)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_final_value_counts_where_truncated() -> None:
    inputs = random_inputs(3, ends=0.0)
    inputs["truncated"][-1] = True
    _, returns = gae(**inputs, gamma=0.9, lam=1.0)
    assert_allclose(returns[-1], inputs["rewards"][-1] + 0.9 * inputs["final_values"][-1])


def test_a_terminal_wins_over_a_truncation_of_the_same_step() -> None:
    values, final = torch.ones(2, 1), torch.full((1, 1), 5.0)
    yes = torch.ones(1, 1, dtype=torch.bool)
    assert next_values(values, yes, yes, final).item() == 0.0


def test_copies_do_not_mix() -> None:
    inputs = random_inputs(4)
    alone = {k: v[:, 1:2] for k, v in inputs.items()}
    together = [x[:, 1:2] for x in gae(**inputs, gamma=0.9, lam=0.8)]
    assert all(torch.equal(a, b) for a, b in zip(together, gae(**alone, gamma=0.9, lam=0.8), strict=True))


def test_no_gradient_reaches_the_values() -> None:
    inputs = random_inputs(5)
    inputs["values"].requires_grad_()
    assert not any(x.requires_grad for x in gae(**inputs, gamma=0.9, lam=0.8))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("values", (7, 3)), ("values", (8, 1)), ("terminated", (7, 1)), ("truncated", (8, 3)), ("final_values", (3,))],
)
def test_a_wrong_shape_is_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    inputs: dict[str, Any] = random_inputs(6)
    inputs[name] = torch.zeros(shape, dtype=inputs[name].dtype)
    with pytest.raises(ValueError, match=name):
        gae(**inputs, gamma=0.9, lam=0.8)


# V-trace


def random_log_ratios(seed: int, steps: int = 7, copies: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(steps, copies)))


def slow_vtrace(
    inputs: Inputs, log_ratios: torch.Tensor, gamma: float, lam: float, rho_clip: float, c_clip: float
) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the paper written out: v_s = V_s + sum_t gamma^(t-s) (prod c) rho_t delta_t, within an episode."""
    r, v, terminated, truncated, final = (tensor.numpy() for tensor in inputs.values())
    steps, copies = r.shape
    targets, advantages = np.zeros((steps, copies)), np.zeros((steps, copies))
    ratios = np.exp(log_ratios.numpy())
    for b in range(copies):
        for s in range(steps):
            total, product = 0.0, 1.0
            for t in range(s, steps):
                after = 0.0 if terminated[t, b] else final[t, b] if truncated[t, b] else v[t + 1, b]
                delta = min(rho_clip, ratios[t, b]) * (r[t, b] + gamma * after - v[t, b])
                total += gamma ** (t - s) * product * delta
                product *= lam * min(c_clip, ratios[t, b])
                if terminated[t, b] or truncated[t, b]:
                    break
            targets[s, b] = v[s, b] + total
        for s in range(steps):
            if terminated[s, b] or truncated[s, b]:
                bootstrap = 0.0 if terminated[s, b] else final[s, b]
            else:
                ahead = targets[s + 1, b] if s + 1 < steps else v[steps, b]
                bootstrap = lam * ahead + (1 - lam) * v[s + 1, b]
            advantages[s, b] = min(rho_clip, ratios[s, b]) * (r[s, b] + gamma * bootstrap - v[s, b])
    return advantages, targets


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 9),
    ends=st.sampled_from([0.0, 0.3, 1.0]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.7, 1.0]),
    clips=st.sampled_from([(1.0, 1.0), (2.0, 0.5), (1e9, 1e9)]),
)
def test_vtrace_equals_the_slow_sums(
    seed: int, steps: int, ends: float, gamma: float, lam: float, clips: tuple[float, float]
) -> None:
    inputs, log_ratios = random_inputs(seed, steps, ends=ends), random_log_ratios(seed, steps)
    found = vtrace(**inputs, log_ratios=log_ratios, gamma=gamma, lam=lam, rho_clip=clips[0], c_clip=clips[1])
    expected = slow_vtrace(inputs, log_ratios, gamma, lam, *clips)
    assert_allclose(found[0], expected[0], atol=1e-11)
    assert_allclose(found[1], expected[1], atol=1e-11)


@given(seed=st.integers(0, 2**32 - 1), lam=st.sampled_from([0.0, 0.7, 1.0]), clip=st.sampled_from([1.0, 3.0]))
def test_on_policy_vtrace_gives_the_advantages_of_gae(seed: int, lam: float, clip: float) -> None:
    inputs = random_inputs(seed)
    same = torch.zeros_like(inputs["rewards"])
    advantages, targets = vtrace(**inputs, log_ratios=same, gamma=0.97, lam=lam, rho_clip=clip, c_clip=clip)
    expected, returns = gae(**inputs, gamma=0.97, lam=lam)
    assert_allclose(advantages, expected, atol=1e-12)
    assert_allclose(targets, inputs["values"][:-1] + expected, atol=1e-12)
    if lam == 1.0:
        assert_allclose(targets, returns, atol=1e-12)


def test_off_policy_vtrace_gives_others() -> None:
    """The control of the test above."""
    inputs = random_inputs(0)
    advantages, _ = vtrace(**inputs, log_ratios=random_log_ratios(0), gamma=0.97)
    assert (advantages - gae(**inputs, gamma=0.97, lam=1.0)[0]).abs().max() > 0.1


def test_an_action_that_the_policy_would_not_take_teaches_nothing() -> None:
    inputs = random_inputs(1, ends=0.0)
    log_ratios = torch.zeros_like(inputs["rewards"])
    log_ratios[3] = -1e9
    advantages, targets = vtrace(**inputs, log_ratios=log_ratios, gamma=0.97)
    assert advantages[3].eq(0).all() and torch.equal(targets[3], inputs["values"][3])
    changed = {**inputs, "rewards": torch.cat([inputs["rewards"][:4], inputs["rewards"][4:] + 5])}
    before = vtrace(**changed, log_ratios=log_ratios, gamma=0.97)[0][:3]
    assert torch.equal(before, advantages[:3])  # and nothing behind it reaches back


def test_the_clips_bound_the_weights_of_unlikely_actions() -> None:
    inputs = random_inputs(2, ends=0.0)
    huge, none = torch.full_like(inputs["rewards"], 1e9), torch.zeros_like(inputs["rewards"])
    clipped, expected = (vtrace(**inputs, log_ratios=x, gamma=0.97) for x in (huge, none))
    assert all(torch.equal(a, b) for a, b in zip(clipped, expected, strict=True))


@pytest.mark.parametrize("how", ["terminated", "truncated"])
def test_no_correction_leaks_across_the_end_of_an_episode(how: str) -> None:
    first, second, end = random_inputs(1, ends=0.0), random_inputs(2, ends=0.3), 3
    first[how][end] = True
    changed = {k: torch.cat([first[k][: end + 1], second[k][end + 1 :]]) for k in first}
    log_ratios = random_log_ratios(1)
    other = torch.cat([log_ratios[: end + 1], log_ratios[end + 1 :] - 1])
    before = [x[: end + 1] for x in vtrace(**first, log_ratios=log_ratios, gamma=0.9)]
    after = [x[: end + 1] for x in vtrace(**changed, log_ratios=other, gamma=0.9)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_vtrace_reads_final_values_only_where_truncated() -> None:
    inputs, log_ratios = random_inputs(3), random_log_ratios(3)
    used = inputs["truncated"] & ~inputs["terminated"]
    poisoned = {**inputs, "final_values": inputs["final_values"].masked_fill(~used, float("nan"))}
    expected, found = (vtrace(**x, log_ratios=log_ratios, gamma=0.9) for x in (inputs, poisoned))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_no_gradient_reaches_the_values_or_the_policy_through_vtrace() -> None:
    inputs, log_ratios = random_inputs(5), random_log_ratios(5).requires_grad_()
    inputs["values"].requires_grad_()
    assert not any(x.requires_grad for x in vtrace(**inputs, log_ratios=log_ratios, gamma=0.9))


@pytest.mark.parametrize(("name", "shape"), [("log_ratios", (7, 1)), ("values", (7, 3)), ("truncated", (8, 3))])
def test_vtrace_refuses_a_wrong_shape_by_name(name: str, shape: tuple[int, ...]) -> None:
    inputs: dict[str, Any] = {**random_inputs(6), "log_ratios": random_log_ratios(6)}
    inputs[name] = torch.zeros(shape, dtype=inputs[name].dtype)
    with pytest.raises(ValueError, match=name):
        vtrace(**inputs, gamma=0.9)
