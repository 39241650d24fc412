"""Agents that begin with a certificate's weights: what is taken, what is new, and a value head that learns alone."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import (
    TINY,
    FixedData,
    agent,
    copy_of,
    fit,
    graph,
    new_network,
    parts_changed,
    random_batch,
    random_rollout,
    store,
    transfer,
)
from resuming import SaveAt, differences, final_state
from wide_cartpole import WIDE

from cdrl_pl.agents.certificate import CERTIFICATE
from cdrl_pl.checks import ConfigError
from cdrl_pl.envs import View
from cdrl_pl.storage.fingerprint import config_hash
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig

BETA = "_agents.beta.network."
SAYS = "agents.beta begins with the weights of"


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    store(tmp_path / "expert", new_network(3))
    return tmp_path / "expert"


def warm(folder: Path, name: str = "CartPole-v1", **learner: Any) -> AgentConfig:
    return replace(agent(name, **learner), init=str(folder))


def alone(folder: Path, name: str = "CartPole-v1", T_max: int = 60, **learner: Any) -> Collaboration:
    return graph(agents={"beta": warm(folder, name, **learner)}, T_max=T_max)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(SAYS)]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def test_an_agent_begins_with_every_weight_of_a_certificate(expert: Path) -> None:
    network = alone(expert).agents["beta"].network
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), new_network(3).parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_heads_of_another_size_are_new_and_all_else_is_taken(expert: Path) -> None:
    theirs, network = new_network(3).state_dict(), alone(expert, WIDE).agents["beta"].network
    assert network.policy_head.weight.shape[0] == network.distill_head.weight.shape[0] == 5
    taken = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, theirs[name])}
    assert taken == {name for name in theirs if not name.startswith(("policy_head", "distill_head"))}
    assert network.policy_head.weight.abs().max() < 0.05  # as new ones are


def test_what_was_taken_and_what_is_new_is_said_once(
    expert: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    module = alone(expert, WIDE, value_first=20)
    fit(module, FixedData(random_batch(module)), tmp_path)
    new = "policy_head and distill_head are new, for 5 actions where it has 2"
    assert said(log) == [f"{SAYS} {expert}; {new}; its value head learns alone until T = 20"]
    log.clear()
    module = alone(expert)
    fit(module, FixedData(random_batch(module)), tmp_path)
    assert said(log) == [f"{SAYS} {expert}; no head is new"]


def test_a_resumed_run_does_not_begin_again(expert: Path, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    results = []
    for resume in (None, tmp_path / "30.ckpt"):
        log.clear()
        module = alone(expert, value_first=20)
        data = [random_batch(module, seed) for seed in range(6)][3 if resume else 0 :]
        trainer = fit(module, FixedData(*data), tmp_path, SaveAt(tmp_path, 30), ckpt_path=resume)
        results.append(final_state(module, trainer))
        assert len(said(log)) == (0 if resume else 1)
    assert differences(*results) == []


def test_the_value_head_learns_alone_first(expert: Path, tmp_path: Path) -> None:
    module = alone(expert, T_max=20, value_first=20)
    first = copy_of(module)
    batch = FixedData(*(random_batch(module, seed) for seed in range(3)))
    fit(module, batch, tmp_path)
    before = copy_of(module)
    assert parts_changed(first, before, BETA) == {"value_head"}
    module.T_max = 30
    fit(module, FixedData(random_batch(module, 7)), tmp_path)
    assert parts_changed(before, copy_of(module), BETA) == {"trunk", "lstm", "policy_head", "value_head"}


def test_a_value_head_alone_steps_as_on_features_that_stay(expert: Path, tmp_path: Path) -> None:
    """Its gradient is that of the value loss on the certificate's own features."""
    module = alone(expert, T_max=10, value_first=10)
    network, rollout = new_network(3), random_rollout()
    student = module.agents["beta"]
    losses = student.reinforcement_losses(student(rollout), rollout, env_steps=0)
    assert losses is not None
    torch.testing.assert_close(losses.total, 0.25 * losses.value_loss)
    hidden, _ = network.features(rollout.obs, rollout.state, rollout.resets)
    values = network.value_head(hidden.detach()).squeeze(-1)[:5]
    returns = values.detach() + losses.advantages
    (0.25 * (returns - values).square().mean(1).sum()).backward()
    fit(module, FixedData({"beta": rollout}), tmp_path)
    for name, parameter in module.agents["beta"].network.value_head.named_parameters():
        step = parameter.detach() - network.value_head.get_parameter(name).detach()
        gradient = network.value_head.get_parameter(name).grad
        assert gradient is not None
        torch.testing.assert_close(step, -1e-2 * gradient.sign(), rtol=1e-3, atol=1e-5)  # Adam's first step


def test_kickstarting_from_the_same_certificate_has_nothing_to_teach_at_first(expert: Path, tmp_path: Path) -> None:
    agents = {"alpha": AgentConfig(certificate=str(expert)), "beta": warm(expert)}
    rollout = replace(random_rollout(ends=0.0), state=torch.zeros(2, 8))
    module = graph(transfer(kind="identity", layer="policy"), agents=agents, T_max=10)
    fit(module, FixedData({"beta": rollout}), tmp_path)
    assert module.run_log.latest["distillation_kl/alpha-beta"] == pytest.approx(0.0, abs=1e-7)
    fit(cold := graph(transfer(kind="identity", layer="policy"), agents={**agents, "beta": agent()}, T_max=10),
        FixedData({"beta": rollout}), tmp_path)  # fmt: skip
    assert cold.run_log.latest["distillation_kl/alpha-beta"] > 1e-3  # from weights of its own there would be


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network": replace(TINY, hidden=9)},
            r"agents.beta: network is .*hidden=9.*whose network it has; leave it out: .*=8",
        ),
        ({"certificate": "teachers/pong"}, r"agents.beta.init is '.*', beside the certificate 'teachers/pong'"),
        ({"env": agent("Acrobot-v1").env}, r"agents.beta: init is .*float32 observations of shape \(4,\); .*\(6,\)"),
        ({"init": "nowhere"}, r"agents.beta: nowhere/certificate.json cannot be read"),
    ],
)
def test_what_cannot_begin_so_is_refused(expert: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        graph(agents={"beta": replace(warm(expert), **changes)})


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({"value_first": -1}, "learner.value_first is -1; it must be 0 or more"),
        ({"value_first": 5, "reinforce": False}, "learner.value_first is 5; it must be 0 where the agent does not"),
        ({"value_first": 5, "value_coef": 0.0}, "learner.value_first is 5; it must be 0 where value_coef is 0"),
    ],
)
def test_a_value_head_that_could_not_learn_alone_is_refused(learner: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agent(**learner)


def test_nothing_is_distilled_while_the_value_head_learns_alone() -> None:
    agents = {"alpha": agent(WIDE), "beta": agent(value_first=50)}
    with pytest.raises(ConfigError, match=r"transfer alpha-beta: T2 is 49, but until 50 \(agents.beta.learner.value_f"):
        graph(transfer(T2=49), agents=agents)
    graph(transfer(T2=50), agents=agents)


def test_an_agent_sees_as_its_certificate_does_unless_it_is_told_how(expert: Path) -> None:
    content = json.loads((expert / CERTIFICATE).read_text())
    content["env"]["view"]["size"] = 30
    (expert / CERTIFICATE).write_text(json.dumps(content))
    assert alone(expert).agents["beta"].view == View(size=30)
    given = warm(expert)
    assert given.env is not None
    given.env.view = View(size=20)
    assert graph(agents={"beta": given}).agents["beta"].view == View(size=20)


def test_an_experiment_knows_two_runs_apart_by_the_weights_they_begin_with(expert: Path, tmp_path: Path) -> None:
    def hashed(folder: Path | None) -> str:
        return config_hash({"model": {"agents": {"beta": {"init": folder and str(folder)}}}})

    store(tmp_path / "same", new_network(3))
    store(tmp_path / "other", new_network(4))
    content = (expert / CERTIFICATE).read_bytes()
    (tmp_path / "same" / CERTIFICATE).write_bytes(content)
    assert hashed(expert) == hashed(tmp_path / "same") != hashed(tmp_path / "other") != hashed(None)
