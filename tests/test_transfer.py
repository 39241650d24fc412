"""A transfer: the teacher's memory, what F and the student's layer learn, and the ends that fit together."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import (
    TINY,
    agent,
    copy_of,
    new_network,
    parts_with_gradient,
    random_rollout,
    step_once,
    store,
)
from graphs import graph as make_graph
from graphs import transfer as edge
from numpy.testing import assert_allclose
from torch import Tensor
from wide_cartpole import CARTPOLE, WIDE

from cdrl_pl import losses
from cdrl_pl.alignment import AlignmentConfig
from cdrl_pl.graph import AgentConfig
from cdrl_pl.guidance import AlarmConfig
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.reading import READINGS, Reading
from cdrl_pl.schedule import Schedule, WeightConfig
from cdrl_pl.teacher import CertificatedAgent, Teacher
from cdrl_pl.transfer import Transfer, TransferConfig
from cdrl_pl.types import Rollout

PAPER = READINGS["paper"]
Array = np.ndarray[Any, Any]


def join(
    teacher: PolicyNetwork, student: PolicyNetwork, kind: str = "deep", reading: Reading = PAPER, **options: Any
) -> Transfer:
    torch.manual_seed(1)
    return Transfer(edge("alpha", "beta", kind, **options), teacher, student, reading)


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


# The teacher's memory


def slow_teacher(network: PolicyNetwork, state: Array, rollout: Rollout) -> tuple[Array, Array]:
    """Logits [T, B, A] and the state after them, one step of one copy at a time, with the LSTM's gates written out."""
    assert network.lstm is not None
    lstm = {k: v.detach().double().numpy() for k, v in network.lstm.named_parameters()}
    head = {k: v.detach().double().numpy() for k, v in network.policy_head.named_parameters()}
    width, state = network.config.lstm, state.copy()
    logits = np.zeros((rollout.steps, rollout.copies, network.num_actions))
    for b in range(rollout.copies):
        for t in range(rollout.steps):
            if rollout.resets[t, b]:
                state[b] = 0.0
            with torch.no_grad():
                x = network.trunk(rollout.obs[t, b : b + 1])[0].double().numpy()
            h, c = state[b, :width], state[b, width:]
            gates = lstm["weight_ih_l0"] @ x + lstm["bias_ih_l0"] + lstm["weight_hh_l0"] @ h + lstm["bias_hh_l0"]
            i, f, g, o = np.split(gates, 4)
            sigmoid = [1 / (1 + np.exp(-gate)) for gate in (i, f, o)]
            c = sigmoid[1] * c + sigmoid[0] * np.tanh(g)
            state[b] = np.concatenate([sigmoid[2] * np.tanh(c), c])
            logits[t, b] = head["weight"] @ state[b, :width] + head["bias"]
    return logits, state


def test_the_teacher_keeps_its_memory_from_rollout_to_rollout_and_resets_it_with_the_episode() -> None:
    network, state = new_network(1, actions=5), np.zeros((3, 8))
    teacher = Teacher(network)
    for seed in range(4):
        rollout = random_rollout(seed, steps=6, copies=3, ends=0.3)
        expected, state = slow_teacher(network, state, rollout)
        assert_allclose(teacher.advise(rollout), expected, atol=1e-5)


def test_a_teacher_without_its_memory_would_advise_otherwise() -> None:
    """The control of the test above."""
    teacher, rollout = Teacher(new_network(1)), random_rollout(1, ends=0.0)
    teacher.advise(random_rollout(0, ends=0.0))
    assert (teacher.advise(rollout) - Teacher(teacher.network).advise(rollout))[0].abs().max() > 1e-3


def test_the_rows_after_a_rollout_are_left_to_the_next_one() -> None:
    """Row T is where the next rollout starts: it is neither advised on twice nor reset twice."""
    teacher, rollout = Teacher(new_network(1)), random_rollout(ends=0.0)
    last = replace(rollout, resets=rollout.resets.index_fill(0, torch.tensor(rollout.steps), True))
    advice = teacher.advise(rollout)
    state = teacher.memory[0].clone()
    teacher.memory.clear()
    assert torch.equal(teacher.advise(last), advice) and torch.equal(teacher.memory[0], state)
    assert len(advice) == rollout.steps


def test_workers_do_not_share_the_teachers_memory() -> None:
    alone, both = Teacher(new_network(1)), Teacher(new_network(1))
    expected = [alone.advise(random_rollout(seed, ends=0.0)) for seed in range(3)]
    found = []
    for seed in range(3):
        found.append(both.advise(random_rollout(seed, ends=0.0)))
        both.advise(random_rollout(50 + seed, ends=0.0, worker=1))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_advice_does_not_depend_on_the_students_memory() -> None:
    rollout = random_rollout(ends=0.0)
    other = replace(rollout, state=rollout.state + 1.0)
    one, two = Teacher(new_network(1)), Teacher(new_network(1))
    assert torch.equal(one.advise(rollout), two.advise(other))


def test_the_program_feeds_the_students_memory_to_the_teacher() -> None:
    network, rollout = new_network(1), random_rollout(3, ends=0.3)
    teacher = Teacher(network)
    teacher.advise(random_rollout(9))  # what it remembers itself does not count
    expected, _ = slow_teacher(network, rollout.state.double().numpy(), rollout)
    assert_allclose(teacher.advise(rollout, feed_student_state=True), expected, atol=1e-5)


def test_a_teacher_without_an_lstm_has_no_memory() -> None:
    network = new_network(1, config=NetworkConfig("mlp", depth=1, hidden=8, lstm=0))
    teacher, rollout = Teacher(network), random_rollout(width=0)
    first = teacher.advise(rollout)
    assert torch.equal(teacher.advise(rollout), first)


def test_a_teacher_and_its_student_need_not_share_a_structure() -> None:
    teacher = new_network(1, actions=5, config=NetworkConfig("mlp", depth=2, hidden=6, lstm=3))
    advice = join(teacher, new_network(2)).advise(random_rollout(width=8))
    assert advice.shape == (5, 2, 5)


def test_a_live_teacher_changes_as_its_agent_learns(tmp_path: Path) -> None:
    module = make_graph(edge())
    rollout = random_rollout(7)
    teacher = module.edges[0].teacher
    assert teacher.network is module.agents["alpha"].network
    before = Teacher(teacher.network).advise(rollout)
    step_once(module, tmp_path)
    assert not torch.equal(Teacher(teacher.network).advise(rollout), before)


def test_a_certificated_teacher_advises_as_it_was_stored(tmp_path: Path) -> None:
    network = new_network(3)
    store(tmp_path, network)
    agent_ = CertificatedAgent(tmp_path)
    rollout = random_rollout()
    assert torch.equal(Teacher(agent_.network).advise(rollout), Teacher(network).advise(rollout))


def test_a_certificated_teacher_cannot_be_trained(tmp_path: Path) -> None:
    store(tmp_path, new_network(3))
    frozen = CertificatedAgent(tmp_path)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen(random_rollout()).logits.requires_grad


# What each loss trains


def test_advice_has_no_gradient() -> None:
    _, _, transfer = pair()
    assert not transfer.advise(random_rollout()).requires_grad


def test_distillation_trains_trunk_memory_and_distillation_layer_alone() -> None:
    teacher, student, transfer = pair()
    rollout = random_rollout()
    aligned = transfer.alignment(transfer.advise(rollout))
    assert aligned.requires_grad  # the loss itself must stop the gradient
    transfer.distillation_loss(read(student, rollout), aligned).backward()
    assert parts_with_gradient(student) == {"trunk", "lstm", "distill_head"}
    assert all(p.grad is None for p in (*transfer.alignment.parameters(), *teacher.parameters()))


def test_distillation_into_the_policy_layer_leaves_the_distillation_layer() -> None:
    teacher, student = new_network(1), new_network(2)
    transfer, rollout = join(teacher, student, "identity", layer="policy"), random_rollout()
    transfer.distillation_loss(read(student, rollout), transfer.alignment(transfer.advise(rollout))).backward()
    assert parts_with_gradient(student) == {"trunk", "lstm", "policy_head"}
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("preset", READINGS)
def test_alignment_trains_f_alone(preset: str) -> None:
    teacher, student, transfer = pair(reading=READINGS[preset])
    rollout = random_rollout()
    transfer.alignment_loss(read(student, rollout), transfer.advise(rollout)).backward()
    assert all(p.grad is not None and p.grad.any() for p in transfer.alignment.parameters())
    assert all(p.grad is None for p in (*student.parameters(), *teacher.parameters()))


# The losses


@pytest.mark.parametrize("layer", ["distillation", "policy"])
@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_distillation_loss_is_the_kl_to_the_aligned_logits(tau: float, layer: Any) -> None:
    student = new_network(2)
    transfer = join(new_network(1, actions=2), student, temperature=tau, layer=layer)
    rollout = random_rollout(ends=0.5)
    output, aligned = read(student, rollout), 4 * transfer.alignment(transfer.advise(rollout))
    logits = output.distill_logits if layer == "distillation" else output.logits
    expected = slow_kl(aligned, logits[:5], tau)
    assert_allclose(transfer.distillation_loss(output, aligned).item(), expected, rtol=1e-4)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_alignment_loss_is_the_kl_to_the_students_policy(tau: float) -> None:
    _, student, transfer = pair(temperature=tau)
    rollout = random_rollout(ends=0.5)
    output, advice = read(student, rollout), transfer.advise(rollout)
    expected = slow_kl(output.logits[:5], transfer.alignment(advice), tau)
    assert_allclose(transfer.alignment_loss(output, advice).item(), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen_shannon"])
def test_each_loss_has_the_divergence_that_it_is_told(kind: losses.Divergence) -> None:
    teacher, student = new_network(1, actions=5), new_network(2)
    config = edge("alpha", "beta", temperature=2.0, divergence=kind)
    config.alignment.divergence = kind
    transfer = Transfer(config, teacher, student, PAPER)
    output, advice = read(student, random_rollout()), transfer.advise(random_rollout())
    aligned = transfer.alignment(advice)
    expected = losses.divergence(kind, aligned, output.distill_logits[:5], 2.0).mean(1).sum()
    assert_allclose(transfer.distillation_loss(output, aligned).item(), expected.item(), rtol=1e-6)
    expected = losses.divergence(kind, output.logits[:5], aligned, 2.0).mean(1).sum()
    assert_allclose(transfer.alignment_loss(output, advice).item(), expected.item(), rtol=1e-6)


def test_without_a_divergence_of_its_own_the_alignment_has_the_readings() -> None:
    _, student, transfer = pair(reading=replace(PAPER, alignment_kl="reverse"))
    output, advice = read(student, random_rollout()), transfer.advise(random_rollout())
    expected = losses.reverse_kl(output.logits[:5], transfer.alignment(advice)).mean(1).sum()
    assert_allclose(transfer.alignment_loss(output, advice).item(), expected.item(), rtol=1e-6)


def test_a_temperature_goes_to_its_end_from_the_transfers_start() -> None:
    _, student, transfer = pair(T1=100, T2=200, temperature=4.0, temperature_end=1.0, temperature_steps=100)
    output, aligned = read(student, random_rollout()), transfer.alignment(transfer.advise(random_rollout()))
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
        output, advice = read(student, random_rollout()), transfer.advise(random_rollout())
        losses_.append(transfer.distillation_loss(output, transfer.alignment(advice)).item())
    assert_allclose(losses_[1], 9 * losses_[0], rtol=1e-6)


def test_equal_networks_joined_by_the_identity_have_nothing_to_distil() -> None:
    network = new_network(1)
    with torch.no_grad():
        network.distill_head.load_state_dict(network.policy_head.state_dict())
    rollout = replace(random_rollout(ends=0.3), state=torch.zeros(2, 8))
    for layer in ("distillation", "policy"):
        transfer = join(network, network, "identity", layer=layer)
        loss = transfer.distillation_loss(read(network, rollout), transfer.alignment(transfer.advise(rollout)))
        assert_allclose(loss.item(), 0.0, atol=1e-6)


def test_different_networks_joined_by_the_identity_have_something_to_distil() -> None:
    """The control of the test above."""
    transfer, rollout = join(new_network(1), new_network(2), "identity"), random_rollout()
    loss = transfer.distillation_loss(read(new_network(2), rollout), transfer.alignment(transfer.advise(rollout)))
    assert loss.item() > 0.1


def test_the_identity_passes_the_logits_on_and_has_nothing_to_train() -> None:
    transfer = join(new_network(1), new_network(2), "identity")
    advice = transfer.advise(random_rollout())
    assert torch.equal(transfer.alignment(advice), advice)
    assert not transfer.alignment.trainable and not list(transfer.alignment.parameters())


def test_alignment_learns_to_reproduce_the_students_policy() -> None:
    """Five actions to two: the KL falls to almost 0 on one rollout, and the student stays."""
    _, student, transfer = pair()
    rollout, before = random_rollout(steps=3), copy_of(student)
    output, advice = read(student, rollout), transfer.advise(rollout)
    adam = torch.optim.Adam(transfer.alignment.parameters(), 3e-2)
    found = []
    for _ in range(300):
        adam.zero_grad()
        loss = transfer.alignment_loss(output, advice)
        loss.backward()
        adam.step()
        found.append(loss.item())
    assert found[0] > 0.3 and found[-1] < 0.01 * found[0]
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


# Ends that do not fit


@pytest.mark.parametrize(("alpha", "beta"), [(WIDE, CARTPOLE), (CARTPOLE, WIDE)])
def test_fault_23_f_maps_between_different_action_counts(alpha: str, beta: str) -> None:
    module = make_graph(edge(), agents={"alpha": agent(alpha), "beta": agent(beta)})
    transfer, counts = module.edges[0], {CARTPOLE: 2, WIDE: 5}
    advice = transfer.advise(random_rollout(actions=counts[beta]))
    assert advice.shape == (5, 2, counts[alpha]) and transfer.alignment(advice).shape == (5, 2, counts[beta])


@pytest.mark.parametrize("layer", ["distillation", "policy"])
def test_fault_23_the_identity_between_different_action_counts_is_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"transfer alpha-beta: .*'identity'.*teacher has 5 .*student 2; use 'deep'"):
        make_graph(edge(kind="identity", layer=layer))


def test_fault_24_ends_with_different_observations_are_refused() -> None:
    agents = {"alpha": agent("Acrobot-v1"), "beta": agent()}
    with pytest.raises(ValueError, match=r"transfer alpha-beta: .*\(6,\).*\(4,\); they must be equal"):
        make_graph(edge(), agents=agents)


def test_a_students_memory_that_does_not_fit_the_teacher_is_refused() -> None:
    agents = {"alpha": agent(network=replace(TINY, lstm=3)), "beta": agent()}
    with pytest.raises(ValueError, match=r"transfer alpha-beta: .*8 numbers.*\(6\); use teacher_state: own"):
        make_graph(edge(), agents=agents, preset="code")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_fault_28_a_temperature_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: temperature is {value}; it must be above 0"):
        make_graph(edge(temperature=value))


@pytest.mark.parametrize("value", [-0.5, float("nan")])
def test_fault_28_a_weight_below_0_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: weight is {value}; it must be 0 or more"):
        make_graph(edge(weight=value))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature_end", 0.0, "above 0, or null"),
        ("temperature_steps", 0, "1 or more decisions"),
        ("divergence", "kl", "one of forward, reverse, jensen_shannon"),
        ("layer", "value", "distillation or policy"),
    ],
)
def test_fault_28_an_option_out_of_range_is_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: {name} is {value}; it must be {allowed}"):
        make_graph(edge(**{name: value}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature_end": 2.0}, "need reading.use_temperature: true"),
        ({"temperature_squared": True}, "need reading.use_temperature: true"),
        ({"weight": WeightConfig()}, "need reading.distill_step: joint"),
        ({"alarm": AlarmConfig()}, "need reading.distill_step: joint"),
    ],
)
def test_fault_28_what_the_programs_reading_leaves_without_effect_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: .*{message}"):
        make_graph(edge(**options), preset="code")


def test_fault_28_an_unknown_divergence_of_the_alignment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alignment.divergence is 'kl'; it must be one of forward, .*, or null"):
        AlignmentConfig(divergence="kl")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T1": 20, "T2": 10}, r"transfer alpha-beta: T2 is 10 but T1 is 20"),
        ({"T1": 0, "T2": 10, "stop": 9}, r"transfer alpha-beta: stop is 9 but T2 is 10"),
        ({"T1": -1}, r"transfer alpha-beta: T1 is -1; it must be 0 or more"),
        ({"T1": None, "T2": 10}, r"transfer alpha-beta: T2 is 10 but T1 is 4000000"),
    ],
)
def test_fault_28_an_impossible_schedule_is_refused_by_the_transfers_name(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_graph(edge(**options))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["lr", "max_grad_norm"])
def test_fault_28_an_alignment_setting_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"alignment.{name} is {value}; it must be above 0"):
        AlignmentConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hidden", "depth"])
def test_fault_28_an_alignment_without_layers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"alignment.{name} is 0; it must be above 0"):
        AlignmentConfig(**{name: 0})  # type: ignore[arg-type]


# Schedules of transfers


def test_never_has_no_stop_and_null_takes_the_presets() -> None:
    never, default = TransferConfig("alpha", "beta", stop="never"), TransferConfig("alpha", "beta")
    assert never.schedule(PAPER).stop is None and default.schedule(PAPER).stop == 15_000_000


def test_the_identity_needs_no_alignment_phase() -> None:
    config = TransferConfig("alpha", "beta", T2=5, alignment=AlignmentConfig("identity"))
    assert config.schedule(PAPER) == Schedule(None, 5, 15_000_000)


def test_the_runs_schedule_wins_over_the_transfers() -> None:
    module = make_graph(edge(T1=1, T2=2, stop=3), T1=10, T2=20, stop="never")
    assert module.edges[0].schedule == Schedule(10, 20, None)


def test_a_student_of_a_certificated_teacher_has_another_memory(tmp_path: Path) -> None:
    """Teacher state and student state have different widths here, and are kept apart."""
    store(tmp_path / "expert", new_network(3, config=replace(TINY, lstm=7)))
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module = make_graph(edge(), agents=agents)
    step_once(module, tmp_path)
    assert module.edges[0].teacher.memory[0].shape == (2, 14)
