"""The teacher's memory of the student's observations, and what its teacher_logits depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphs import graph as make_graph
from graphs import logits_on, new_network, random_rollout, step_once, store
from graphs import transfer as edge
from numpy.testing import assert_allclose
from transfers import TeacherOf, join

from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.types import Rollout

Array = np.ndarray[Any, Any]


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
    teacher = TeacherOf(network)
    for seed in range(4):
        rollout = random_rollout(seed, steps=6, copies=3, ends=0.3)
        expected, state = slow_teacher(network, state, rollout)
        assert_allclose(teacher(rollout), expected, atol=1e-5)


def test_a_teacher_without_its_memory_would_advise_otherwise() -> None:
    """The control of the test above."""
    teacher, rollout = TeacherOf(new_network(1)), random_rollout(1, ends=0.0)
    teacher(random_rollout(0, ends=0.0))
    assert (teacher(rollout) - TeacherOf(teacher.network)(rollout))[0].abs().max() > 1e-3


def test_the_rows_after_a_rollout_are_left_to_the_next_one() -> None:
    """Row T is where the next rollout starts: it is neither advised on twice nor reset twice."""
    teacher, rollout = TeacherOf(new_network(1)), random_rollout(ends=0.0)
    last = replace(rollout, resets=rollout.resets.index_fill(0, torch.tensor(rollout.steps), True))
    teacher_logits = teacher(rollout)
    state = teacher.states[0].clone()
    teacher.states.clear()
    assert torch.equal(teacher(last), teacher_logits) and torch.equal(teacher.states[0], state)
    assert len(teacher_logits) == rollout.steps


def test_workers_do_not_share_the_teachers_memory() -> None:
    alone, both = TeacherOf(new_network(1)), TeacherOf(new_network(1))
    expected = [alone(random_rollout(seed, ends=0.0)) for seed in range(3)]
    found = []
    for seed in range(3):
        found.append(both(random_rollout(seed, ends=0.0)))
        both(random_rollout(50 + seed, ends=0.0, worker=1))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_advice_does_not_depend_on_the_students_memory() -> None:
    rollout = random_rollout(ends=0.0)
    other = replace(rollout, state=rollout.state + 1.0)
    one, two = TeacherOf(new_network(1)), TeacherOf(new_network(1))
    assert torch.equal(one(rollout), two(other))


def test_the_program_feeds_the_students_memory_to_the_teacher() -> None:
    network, rollout = new_network(1), random_rollout(3, ends=0.3)
    teacher = TeacherOf(network)
    teacher(random_rollout(9))  # what it remembers itself does not count
    expected, _ = slow_teacher(network, rollout.state.double().numpy(), rollout)
    assert_allclose(teacher(rollout, feed_student_state=True), expected, atol=1e-5)


def test_a_teacher_without_an_lstm_has_no_memory() -> None:
    network = new_network(1, config=NetworkConfig("mlp", depth=1, hidden=8, lstm=0))
    teacher, rollout = TeacherOf(network), random_rollout(width=0)
    first = teacher(rollout)
    assert torch.equal(teacher(rollout), first)


def test_a_teacher_and_its_student_need_not_share_a_structure() -> None:
    teacher = new_network(1, actions=5, config=NetworkConfig("mlp", depth=2, hidden=6, lstm=3))
    teacher_logits = join(teacher, new_network(2)).ask(random_rollout(width=8)).logits
    assert teacher_logits.shape == (5, 2, 5)


def test_a_live_teacher_changes_as_its_agent_learns(tmp_path: Path) -> None:
    module = make_graph(edge())
    rollout = random_rollout(7)
    before = logits_on(module, rollout)
    assert torch.equal(before, TeacherOf(module.agents["alpha"].network)(rollout))
    module.transfers[0].teacher.states.clear()
    step_once(module, tmp_path)
    module.transfers[0].teacher.states.clear()
    assert not torch.equal(logits_on(module, rollout), before)


def test_a_certificated_teacher_advises_as_it_was_stored(tmp_path: Path) -> None:
    network = new_network(3)
    store(tmp_path, network)
    agent_ = CertificatedAgent(tmp_path)
    rollout = random_rollout()
    assert torch.equal(TeacherOf(agent_.network)(rollout), TeacherOf(network)(rollout))


def test_a_certificated_teacher_cannot_be_trained(tmp_path: Path) -> None:
    store(tmp_path, new_network(3))
    frozen = CertificatedAgent(tmp_path)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen(random_rollout()).logits.requires_grad
