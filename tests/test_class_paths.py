"""A trunk, an alignment function and a teacher of the user's own, by their class paths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_parts
import pytest
import torch
from command_line import Run, edge, pole, run, tiny, write  # noqa: F401
from torch import nn

from cdrl_pl.agents.certificate import CERTIFICATE, load_certificate, save_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.agents.own_policy import OwnPolicy
from cdrl_pl.checks import ConfigError
from cdrl_pl.class_paths import made
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.presets import PRESETS
from cdrl_pl.storage.verified import CertificateError
from cdrl_pl.training.graph import AgentConfig, build_agent
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig

CARTPOLE = EnvConfig("CartPole-v1", max_episode_steps=100)
OWN = NetworkConfig(trunk="own_parts.Wide", trunk_options={"width": 5}, lstm=4)


# A trunk


def test_a_network_has_the_users_trunk_as_it_was_made() -> None:
    torch.manual_seed(3)
    network = PolicyNetwork(OWN, (4,), 2)
    torch.manual_seed(3)
    alone = own_parts.Wide((4,), width=5)
    assert isinstance(network.trunk, own_parts.Wide) and network.lstm is not None and network.lstm.input_size == 5
    assert all(torch.equal(network.trunk.state_dict()[k], v) for k, v in alone.state_dict().items())
    obs, resets = torch.randn(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool)
    state, logits = network.initial_state(2), []
    for step in range(3):
        one, _, state = network.act(obs[step], state, resets[step])
        logits.append(one)
    assert torch.allclose(network(obs, network.initial_state(2), resets).logits, torch.stack(logits), atol=1e-6)


@pytest.mark.parametrize(
    ("trunk", "options", "said"),
    [
        ("own_parts.Wider", {}, "network.trunk is 'own_parts.Wider', which cannot be imported: .*Wider"),
        ("nobodys_module.Wide", {}, "cannot be imported: No module named 'nobodys_module'"),
        ("own_parts.Wide", {"depth": 3}, r"cannot be made of \(\(4,\), depth=3\): .*depth"),
        ("own_parts.no_module", {}, "makes a object; it must be a torch.nn.Module"),
        ("own_parts.Empty", {}, "has no parameters"),
        ("own_parts.Threefold", {}, r"gives shape \(2, 6, 1\) of observations \(2, 4,\); it must be \(2, D\)"),
        ("own_parts.Normalising", {}, "changes buffers as it reads"),
    ],
)
def test_a_trunk_that_cannot_be_is_refused(trunk: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PolicyNetwork(NetworkConfig(trunk=trunk, trunk_options=options), (4,), 2)


def test_options_of_a_trunk_are_for_one_by_class_path() -> None:
    with pytest.raises(ConfigError, match=r"trunk_options is .*; it must be empty, but for a trunk by class path"):
        NetworkConfig(trunk="mlp", trunk_options={"width": 3})


# An alignment function


def alignment(kind: str, **options: Any) -> Alignment:
    return Alignment(AlignmentConfig(kind=kind, options=options), 3, 2, PRESETS["paper"])


def test_an_alignment_function_of_the_users_own_is_trained_where_it_has_parameters() -> None:
    found = alignment("own_parts.Affine", bias=False)
    logits = torch.randn(4, 5, 3)
    assert found.trainable and torch.equal(found(logits), logits @ found.network.layer.weight.T)  # type: ignore[union-attr,operator]
    nothing = Alignment(AlignmentConfig(kind="own_parts.Reversed"), 2, 2, PRESETS["paper"])
    assert not nothing.trainable and torch.equal(nothing(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 1.0]))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("own_parts.Affin", "alignment.kind is 'own_parts.Affin', which cannot be imported"),
        ("own_parts.no_module", "makes a object"),
        ("own_parts.Reversed", r"gives \(2, 3, 3\) of logits \(2, 3, 3\); it must be \(2, 3, 2\)"),
    ],
)
def test_an_alignment_function_that_cannot_be_is_refused(kind: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        alignment(kind)


# A teacher


def test_a_policy_of_the_users_own_gives_its_logits_and_plays_in_every_process() -> None:
    agent = OwnPolicy("own_parts.Balancing", {"certainty": 9.0}, CARTPOLE)
    obs, resets = torch.randn(6, 4), torch.zeros(1, 6, dtype=torch.bool)
    output = agent.network(obs.unsqueeze(0), agent.network.initial_state(6), resets)
    assert torch.allclose(output.logits[0], own_parts.Balancing((4,), 9.0)(obs)) and not output.values.any()
    score = evaluate(agent.network, CARTPOLE, 8, True, 5, processes=2)
    assert score.mean == 100.0  # every episode to its limit


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (AgentConfig(CARTPOLE, policy="own_parts.Wide"), "agents.a: policy is 'own_parts.Wide', which gives 6 logits"),
        (AgentConfig(CARTPOLE, policy="own_parts.None_"), "policy is 'own_parts.None_', which cannot be imported"),
        (AgentConfig(CARTPOLE, certificate="x", policy="y.Z"), "has a certificate and a policy"),
        (AgentConfig(policy="own_parts.Balancing"), "needs an env"),
        (AgentConfig(CARTPOLE, policy_options={"a": 1}), "policy_options are of a policy"),
        (AgentConfig(CARTPOLE, trust=("a",)), "trust is of a certificate"),
    ],
)  # fmt: skip
def test_an_agent_that_cannot_be_is_refused(config: AgentConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_agent("a", config)


# All of them in a run, and in a certificate


@pytest.mark.slow
def test_a_run_of_the_users_own_parts_learns_stores_and_resumes(run: Run, tmp_path: Path) -> None:  # noqa: F811
    student = {**pole(), "network": {"trunk": "own_parts.Wide", "trunk_options": {"width": 7}, "lstm": 4}}
    teacher = {"env": {"id": "CartPole-v1"}, "policy": "own_parts.Balancing", "policy_options": {"certainty": 2.0}}
    transfer = edge(alignment={"kind": "own_parts.Affine", "options": {"bias": False}})
    callbacks = {
        "class_path": "cdrl_pl.callbacks.CertificatedTeacher",
        "init_args": {"agent": "beta", "threshold": 0, "window": 1, "episodes": 2, "trial": 0},
    }
    config = tiny(callbacks, transfers=[transfer], alpha=teacher, beta=student)
    write(tmp_path / "own.yaml", config)
    ended = run("fit", "--config", "own.yaml")
    start = own_parts.Affine(2, 2, False).layer.weight
    assert not torch.equal(ended.model.transfers[0].alignment.network.layer.weight, start)
    again = run("fit", "--config", "own.yaml", "--ckpt_path", "runs/version_0", "--T_max=160")
    assert again.model.env_steps == {"beta": 160}
    folder = tmp_path / "runs" / "version_0" / "teacher" / "beta"
    with pytest.raises(CertificateError, match=r"network.trunk is 'own_parts.Wide', which is not imported unasked"):
        load_certificate(folder)
    run("test", "--teacher", folder, "--trust", "own_parts", "--episodes=1")
    assert json.loads((tmp_path / "runs" / "version_2" / "scores.json").read_text())["agents"]["teacher"]


def certificated(folder: Path, env: EnvConfig = CARTPOLE) -> Path:
    torch.manual_seed(0)
    save_certificate(folder, PolicyNetwork(OWN, (4,), 2), env, describe(env), {}, {})
    return folder


def test_a_certificate_imports_what_is_trusted_and_nothing_else(tmp_path: Path) -> None:
    folder = certificated(tmp_path / "own")
    for trust in ((), ("own",), ("own_parts.Wide",), ("numpy",)):
        with pytest.raises(CertificateError, match="--trust own_parts"):
            CertificatedAgent(folder, trust=trust)
    agent = CertificatedAgent(folder, trust=("own_parts",))
    assert isinstance(agent.network.trunk, own_parts.Wide) and not agent.network.trunk.layer.weight.requires_grad


def test_a_certificate_of_another_trunk_than_its_weights_is_refused(tmp_path: Path) -> None:
    folder = certificated(tmp_path / "own")
    content = json.loads((folder / CERTIFICATE).read_text())
    content["network"]["trunk_options"]["width"] = 6
    (folder / CERTIFICATE).write_text(json.dumps(content))
    with pytest.raises(CertificateError, match="does not hold the network that the certificate names"):
        load_certificate(folder, ("own_parts",))


def test_a_trusted_module_brings_its_task_and_its_wrappers(tmp_path: Path) -> None:
    env = EnvConfig(
        "toy_envs:ScaledToy-v0", kwargs={"pay": 3.0}, wrappers=({"gymnasium.wrappers.ClipReward": {"max_reward": 2}},)
    )
    network = PolicyNetwork(NetworkConfig(trunk="mlp", depth=1, hidden=4, lstm=0), (3,), 3)
    save_certificate(tmp_path / "toy", network, env, describe(env), {}, {})
    agent = CertificatedAgent(tmp_path / "toy", trust=("toy_envs", "gymnasium"))
    agent.check_playable()
    assert agent.env.id == "toy_envs:ScaledToy-v0" and agent.game == "ScaledToy-v0"
    assert evaluate(agent.network, agent.env, 1, True, 1).returns[0] % 2.0 == 0.0  # 2 each, as clipped
    assert not CertificatedAgent(tmp_path / "toy", trust=("toy_envs",)).env.wrappers  # all of them, or none


def test_an_object_is_made_of_its_arguments_and_options() -> None:
    layer = made("option", "torch.nn.Linear", {"bias": False}, 2, 3)
    assert isinstance(layer, nn.Linear) and layer.weight.shape == (3, 2) and layer.bias is None
    assert replace(OWN, lstm=0).trunk_options == {"width": 5}
