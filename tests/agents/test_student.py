"""The reinforcement loss of a student: against a slow reference, and which parameters it may touch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import (
    FixedData,
    agent,
    fit,
    graph,
    parts_with_gradient,
    played,
    random_batch,
    random_rollout,
    spread,
    step_once,
)
from numpy.testing import assert_allclose
from toy_envs import toy

from cdrl_pl import distributions
from cdrl_pl.agents.student import LearnerConfig, Student
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.training.graph import AgentConfig, build_agent
from cdrl_pl.types import PolicyOutput, Rollout

GAMMA, LAM, VALUE, ENTROPY = 0.9, 0.8, 0.3, 0.05
Losses = dict[str, float]


def make_student(**learner: Any) -> Student:
    options = {"gamma": GAMMA, "lam": LAM, "value_coef": VALUE, "entropy_coef": ENTROPY, **learner}
    torch.manual_seed(0)
    student = build_agent("beta", agent(**options))
    assert isinstance(student, Student)
    spread(student.network)
    return student


def slow_losses(output: PolicyOutput, rollout: Rollout, time_limit: str, clip: bool, scale: float = 1.0) -> Losses:
    """The paper's loss in plain loops over single steps: the sums over time, and the mean over copies."""
    logits, values = output.logits.detach().double().numpy(), output.values.detach().double().numpy()
    steps, copies = rollout.steps, rollout.copies
    total = {"policy_loss": 0.0, "value_loss": 0.0, "entropy": 0.0}
    for b in range(copies):
        for start in range(steps):
            advantage = ret = 0.0
            for k, t in enumerate(range(start, steps)):
                reward = scale * float(rollout.rewards[t, b])
                reward = max(-1.0, min(1.0, reward)) if clip else reward
                terminated, truncated = bool(rollout.terminated[t, b]), bool(rollout.truncated[t, b])
                after = float(values[t + 1, b])
                if truncated:
                    after = 0.0 if time_limit == "terminal" else float(rollout.final_values[t, b])
                if terminated:
                    after = 0.0
                advantage += (GAMMA * LAM) ** k * (reward + GAMMA * after - values[t, b])
                ret += GAMMA**k * reward
                if terminated or truncated or t == steps - 1:
                    ret += GAMMA ** (k + 1) * after
                    break
            p = [math.exp(z) for z in logits[start, b]]
            p = [x / sum(p) for x in p]
            total["policy_loss"] -= math.log(p[rollout.actions[start, b]]) * advantage / copies
            total["value_loss"] += (ret - values[start, b]) ** 2 / copies
            total["entropy"] -= sum(x * math.log(x) for x in p) / copies
    total["total"] = total["policy_loss"] + VALUE * total["value_loss"] - ENTROPY * total["entropy"]
    return total


# The loss


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("time_limit", ["bootstrap", "terminal"])
@pytest.mark.parametrize("seed", range(4))
def test_the_reinforcement_loss_equals_its_slow_reference(seed: int, time_limit: Any, clip: bool, scale: float) -> None:
    student = make_student(clip_rewards=clip, reward_scale=scale)
    rollout = random_rollout(seed, steps=9, copies=5, ends=0.5)
    assert rollout.terminated.any() and rollout.truncated.any() and (rollout.rewards.abs() > 1).any()
    output = student(rollout)
    found = student.reinforcement_losses(output, rollout, time_limit)
    expected = slow_losses(output, rollout, time_limit, clip, scale)
    for name, value in expected.items():
        assert_allclose(getattr(found, name).item(), value, rtol=1e-4, err_msg=name)


def one_truncated_step() -> Rollout:
    """Reward 3, cut off by a time limit before a state worth 7."""
    rollout = random_rollout(steps=1, copies=1, ends=0.0)
    cut = torch.tensor([[True]])
    return replace(rollout, rewards=torch.tensor([[3.0]]), truncated=cut, final_values=torch.tensor([[7.0]]))


@pytest.mark.parametrize(("time_limit", "ret"), [("bootstrap", 3 + GAMMA * 7), ("terminal", 3.0)])
def test_a_time_limit_is_bootstrapped_or_taken_for_a_terminal(time_limit: Any, ret: float) -> None:
    student, rollout = make_student(), one_truncated_step()
    output = student(rollout)
    found = student.reinforcement_losses(output, rollout, time_limit)
    assert_allclose(found.value_loss.item(), (ret - output.values[0, 0].item()) ** 2, rtol=1e-5)


def test_no_gradient_flows_through_the_advantages() -> None:
    """So the values learn from the squared error alone: 2 c (v - R), averaged over copies."""
    student, rollout = make_student(), random_rollout(steps=9, copies=5, ends=0.5)
    output = student(rollout)
    output.values.retain_grad()
    student.reinforcement_losses(output, rollout).total.backward()
    ret = np.zeros((9, 5))
    v = output.values.detach().numpy()
    for t in reversed(range(9)):
        for b in range(5):
            after = v[t + 1, b] if t == 8 else ret[t + 1, b]
            after = rollout.final_values[t, b].item() if rollout.truncated[t, b] else after
            after = 0.0 if rollout.terminated[t, b] else after
            ret[t, b] = rollout.rewards[t, b].item() + GAMMA * after
    assert output.values.grad is not None
    assert_allclose(output.values.grad[:9], 2 * VALUE * (v[:9] - ret) / 5, rtol=1e-3, atol=1e-5)
    assert output.values.grad[9].eq(0).all()  # the last row only bootstraps


def test_the_loss_reinforces_an_action_that_paid() -> None:
    student, rollout = make_student(value_coef=0.0, entropy_coef=0.0), random_rollout(steps=1, copies=1, ends=0.0)
    rollout = replace(rollout, rewards=torch.full((1, 1), 100.0))
    output = student(rollout)
    output.logits.retain_grad()
    student.reinforcement_losses(output, rollout).total.backward()
    assert output.logits.grad is not None
    assert output.logits.grad[0, 0].argmin() == rollout.actions[0, 0]  # descent makes it likelier


def test_the_entropy_bonus_makes_the_policy_more_even() -> None:
    student, rollout = make_student(value_coef=0.0, entropy_coef=1e4), random_rollout(ends=0.0)
    output = student(rollout)
    output.logits.retain_grad()
    student.reinforcement_losses(output, rollout).total.backward()
    assert output.logits.grad is not None
    top = output.logits[:5].argmax(-1, keepdim=True)
    assert (output.logits.grad[:5].gather(-1, top) > 0).all()


def test_the_entropy_bonus_follows_the_clock_of_the_run(tmp_path: Path) -> None:
    """At its end the bonus outweighs everything; at T = 0 it is nothing."""
    options = {"entropy_coef": 0.0, "entropy_end": 1e6, "entropy_steps": 100, "max_grad_norm": 1e9}
    gaps = {}
    for clock in (0, 100):
        module = graph(agents={"beta": agent(**options)})
        network = spread(module.agents["beta"].network)
        module.env_steps["beta"] = clock
        batch = random_batch(module)
        step_once(module, tmp_path, batch)
        gradient = network.policy_head.bias.grad
        assert gradient is not None
        gaps[clock] = gradient.abs().max().item()
    assert gaps[0] < gaps[100] / 1_000


def test_the_learning_rate_follows_the_clock_of_the_run(tmp_path: Path) -> None:
    rates = {}
    for clock in (0, 50, 100, 10**10):
        module = graph(agents={"beta": agent(lr=1e-2, lr_end=1e-3, lr_steps=100)})
        module.env_steps["beta"] = clock
        step_once(module, tmp_path, random_batch(module))
        rates[clock] = module.trainer.optimizers[0].param_groups[0]["lr"]
    assert rates == pytest.approx({0: 1e-2, 50: 5.5e-3, 100: 1e-3, 10**10: 1e-3})


# V-trace


def replayed(student: Student, rollout: Rollout, lag: float) -> Rollout:
    """The rollout as played by the student's own policy, where ``lag`` is 0, or by one whose probabilities differ."""
    log_probs = distributions.log_prob(student(rollout).logits[: rollout.steps], rollout.actions).detach()
    return replace(rollout, log_probs=log_probs + lag * torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs))


def vtrace_and_gae(lag: float, lam: float = 1.0) -> list[Losses]:
    found = []
    for off_policy in ("vtrace", "none"):
        student = make_student(off_policy=off_policy, lam=lam)
        rollout = replayed(student, random_rollout(3, steps=9, copies=5, ends=0.5), lag)
        losses_ = student.reinforcement_losses(student(rollout), rollout)
        found.append({k: v.sum().item() for k, v in losses_._asdict().items()})
    return found


def test_vtrace_of_a_policy_without_lag_is_a3c() -> None:
    vtrace, gae = vtrace_and_gae(0.0)
    assert vtrace == pytest.approx(gae, rel=1e-4)


def test_vtrace_of_a_policy_with_lag_is_not() -> None:
    """The control of the test above."""
    vtrace, gae = vtrace_and_gae(1.0)
    assert vtrace["policy_loss"] != pytest.approx(gae["policy_loss"], rel=0.05)
    assert vtrace["value_loss"] != pytest.approx(gae["value_loss"], rel=0.05)


def test_without_vtrace_the_lag_changes_nothing() -> None:
    assert vtrace_and_gae(0.0)[1] == vtrace_and_gae(1.0)[1]


def test_vtrace_weighs_by_the_learners_policy_over_the_workers() -> None:
    """A quarter counts of a step played 4 times as often as the learner would, the clip of one played less often."""
    student, rollout = make_student(off_policy="vtrace"), random_rollout(steps=1, copies=2, ends=0.0)
    rollout = replayed(student, rollout, 0.0)
    rollout = replace(rollout, log_probs=rollout.log_probs + torch.tensor([[math.log(4), -math.log(4)]]))
    found = student.reinforcement_losses(student(rollout), rollout).advantages
    values = student(rollout).values.detach()
    delta = rollout.rewards[0] + GAMMA * values[1] - values[0]
    assert_allclose(found[0], delta * torch.tensor([0.25, 1.0]), rtol=1e-4)
    wide = make_student(off_policy="vtrace", rho_clip=3.0)
    found = wide.reinforcement_losses(wide(rollout), rollout).advantages
    assert_allclose(found[0], delta * torch.tensor([0.25, 3.0]), rtol=1e-4)


# Rewards


def test_clipping_leaves_the_rollouts_own_rewards() -> None:
    student, rollout = make_student(clip_rewards=True), random_rollout()
    before = rollout.rewards.clone()
    student.reinforcement_losses(student(rollout), rollout)
    assert torch.equal(rollout.rewards, before)


@pytest.mark.parametrize("options", [{"clip_rewards": True}, {"reward_scale": 0.01}])
def test_returns_are_the_games_own_where_the_learner_clips_or_scales(tmp_path: Path, options: dict[str, Any]) -> None:
    """Episode k of the toy pays at least k per step, and a worker that clipped would see 1."""
    learner = LearnerConfig(**options)
    config = AgentConfig(toy("Counting"), NetworkConfig("mlp", depth=1, hidden=4, lstm=0), learner)
    module = graph(agents={"toy": config}, T_max=60)
    fit(module, played(), tmp_path)
    assert max(e.ret / e.length for e in module.run_log.episodes["toy"]) > 3


# Which parameters


def test_reinforcement_trains_everything_but_the_distillation_head() -> None:
    student, rollout = make_student(), random_rollout()
    student.reinforcement_losses(student(rollout), rollout).total.backward()
    assert parts_with_gradient(student.network) == {"trunk", "lstm", "policy_head", "value_head"}


def test_all_copies_make_one_step_and_small_batches_several(tmp_path: Path) -> None:
    steps = {}
    for batch_copies in (None, 2):
        module = graph(agents={"beta": agent(batch_copies=batch_copies)}, T_max=5 * 5)
        trainer = fit(module, FixedData(random_batch(module, copies=5)), tmp_path)
        steps[batch_copies] = {int(s["step"]) for s in trainer.optimizers[0].state.values()}
    assert steps == {None: {1}, 2: {3}}  # 2 + 2 + 1 copies


# Its settings


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("lr", 0.0, "above 0"),
        ("lr", float("nan"), "above 0"),
        ("gamma", 1.01, "from 0 to 1"),
        ("gamma", -0.1, "from 0 to 1"),
        ("lam", 1.5, "from 0 to 1"),
        ("lam", -1.0, "from 0 to 1"),
        ("value_coef", -0.25, "0 or more"),
        ("entropy_coef", -0.01, "0 or more"),
        ("max_grad_norm", 0.0, "above 0"),
        ("reward_scale", 0.0, "above 0"),
        ("batch_copies", 0, "1 or more, or null"),
        ("off_policy", "retrace", "none or vtrace"),
        ("c_clip", 0.0, "above 0"),
        ("rho_clip", 0.5, "c_clip, 1.0, or more"),
        ("rho_clip", float("nan"), "c_clip, 1.0, or more"),
    ],
)
def test_fault_28_a_learner_setting_out_of_range_is_refused(name: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"learner.{name} is {value!r}; it must be {allowed}"):
        LearnerConfig(**{name: value})  # type: ignore[arg-type]


def test_the_defaults_are_the_papers() -> None:
    found = LearnerConfig()
    assert (found.lr, found.gamma, found.lam) == (1e-4, 0.99, 1.0)
    assert (found.value_coef, found.entropy_coef, found.max_grad_norm) == (0.25, 0.01, 40.0)
    assert found.reinforce and not found.clip_rewards and found.reward_scale == 1.0
