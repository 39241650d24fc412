"""Graphs where teachers play, and where they advise."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import onnx_graphs
import pytest
import torch
from command_line import Run, edge, pole, tiny, write
from graphs import logits_on, random_rollout, spread, transfer
from onnx_graphs import WEIGHT, WHY, counting, custom_domain, helper, linear, port, save

from cdrl_pl.agents.certificate import CERTIFICATE, GRAPH, load_certificate, save_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.agents.own_policy import OwnPolicy
from cdrl_pl.checks import ConfigError
from cdrl_pl.cli.main import CLI
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.onnx.export import write_onnx
from cdrl_pl.onnx.network import OnnxNetwork, located
from cdrl_pl.storage.fingerprint import config_hash
from cdrl_pl.storage.verified import sha256
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig, build_agent

run = command_line.run
CARTPOLE = EnvConfig("CartPole-v1", max_episode_steps=100)


def network(path: Path, made: Any, **options: Any) -> OnnxNetwork:
    return OnnxNetwork(located(save(path, made), options), (4,), 2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[PolicyNetwork, Path]:
    """A network with memory, and its graph."""
    pytest.importorskip("onnxscript", reason=WHY)
    own = spread(PolicyNetwork(NetworkConfig("mlp", depth=1, hidden=8, lstm=4), (4,), 2)).eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("exported") / "own.onnx"
    write_onnx(path, own, CARTPOLE, describe(CARTPOLE), {})
    return own, path


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_what_was_exported_comes_back_with_the_same_logits(exported: tuple[PolicyNetwork, Path]) -> None:
    own, path = exported
    graph = OwnPolicy(str(path), {}, CARTPOLE).network
    obs, resets, state = torch.randn(50, 20, 4), torch.rand(50, 20) < 0.2, torch.randn(20, 8).tanh()
    wanted, found = own(obs, state, resets), graph(obs, state, resets)
    assert graph.state_size == own.state_size == 8 and resets.any()
    for name in ("logits", "values", "state"):
        assert_close(getattr(found, name), getattr(wanted, name))
    for wants, finds in zip(own.act(obs[0], state, resets[0]), graph.act(obs[0], state, resets[0]), strict=True):
        assert_close(finds, wants)


def test_state_is_the_graphs_own_and_is_cut_where_an_episode_begins(tmp_path: Path) -> None:
    graph, obs = network(tmp_path / "a.onnx", counting()), torch.randn(4, 3, 4)
    resets = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    output = graph(obs, torch.full((3, 2), 5.0), resets)
    before = torch.tensor([[0, 5, 5], [1, 6, 6], [2, 0, 7], [3, 1, 8]]).float()
    assert_close(output.logits, obs @ torch.from_numpy(WEIGHT) + before.unsqueeze(-1))
    assert torch.equal(output.state, torch.tensor([[4.0, 4.0], [2.0, 2.0], [9.0, 9.0]]))
    assert_close(output.values, obs.sum(-1))


def test_q_values_are_divided_by_the_temperature_and_what_gives_no_value_is_worth_nothing(tmp_path: Path) -> None:
    graph, obs = network(tmp_path / "q.onnx", linear("q"), output="q", temperature=0.5), torch.randn(700, 4)
    logits, values, _ = graph.act(obs, graph.initial_state(700), torch.zeros(700, dtype=torch.bool))
    assert_close(logits, obs @ torch.from_numpy(WEIGHT) / 0.5)  # 700 rows are read in several parts
    assert not values.any() and values.shape == (700,)


@pytest.mark.parametrize("divisor", [255.0, 1.0])
def test_pictures_are_divided_where_a_graph_reads_float32(divisor: float, tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["obs", "axes"], ["logits"], keepdims=0)]
    axes = onnx_graphs.numpy_helper.from_array(np.array([2, 3]), "axes")
    made = onnx_graphs.model(nodes, [port("obs", ["b", 2, 3, 3])], [port("logits", ["b", 2])], [axes])
    graph = OnnxNetwork(located(save(tmp_path / "a.onnx", made), {"divisor": divisor}), (2, 3, 3), 2)
    obs = torch.randint(0, 256, (5, 2, 3, 3), dtype=torch.uint8)
    logits, *_ = graph.step(obs, graph.initial_state(5))
    assert_close(logits, obs.float().mean((2, 3)) / divisor)


def test_a_graph_that_reads_uint8_is_refused_where_a_task_gives_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["obs"], ["x"], to=1),
        helper.make_node("MatMul", ["x", "weight"], ["logits"]),
    ]
    made = onnx_graphs.model(nodes, [port("obs", ["batch", 4], onnx_graphs.Kind.UINT8)])
    with pytest.raises(ConfigError, match="reads uint8 observations; the task gives float32"):
        OwnPolicy(str(save(tmp_path / "a.onnx", made)), {}, CARTPOLE)


def test_a_session_has_one_thread_and_a_copy_has_its_own(tmp_path: Path) -> None:
    graph, obs = network(tmp_path / "a.onnx", linear()), torch.randn(3, 4)
    said = graph.step(obs, graph.initial_state(3))[0]
    options = graph._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert graph._session.get_providers() == ["CPUExecutionProvider"]
    copied = copy.deepcopy(graph)
    assert copied._session is None and torch.equal(copied.step(obs, graph.initial_state(3))[0], said)


# Where it plays


@pytest.mark.slow
def test_a_graph_is_scored_alike_in_one_process_and_in_several(exported: tuple[PolicyNetwork, Path]) -> None:
    own, path = exported
    graph = OwnPolicy(str(path), {}, CARTPOLE).network
    scores = [
        evaluate(net, CARTPOLE, 6, True, 5, 4, processes=n).returns for net, n in ((own, 1), (graph, 1), (graph, 2))
    ]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.slow
def test_a_run_with_a_graph_as_teacher_and_one_as_student_plays_aligns_distils_and_resumes(
    exported: tuple[PolicyNetwork, Path], run: Run, tmp_path: Path
) -> None:
    task = {"env": {"id": "CartPole-v1", "max_episode_steps": 12}}
    alpha = {**task, "policy": str(exported[1])}
    gamma = {**task, "policy": str(save(tmp_path / "b.onnx", counting())), "policy_options": {"temperature": 3.0}}
    measured = edge(teacher="alpha", student="gamma")  # workers play the graph
    config = write(tmp_path / "a.yaml", tiny(transfers=[edge(), measured], alpha=alpha, beta=pole(), gamma=gamma))
    ended: CLI = run("fit", "--config", config)
    assert ended.model.env_steps["beta"] == 120 and ended.model.env_steps["gamma"] == 120
    again = run("fit", "--config", config, "--ckpt_path", "runs/version_0", "--T_max=160")
    assert again.model.env_steps["gamma"] == 160
    assert not any("gamma.network" in name for name in again.model.state_dict())


# Where it advises


def test_a_teacher_that_is_a_graph_says_what_it_says(tmp_path: Path) -> None:
    agents = {
        "alpha": AgentConfig(CARTPOLE, policy=str(save(tmp_path / "a.onnx", counting()))),
        "beta": AgentConfig(CARTPOLE, NetworkConfig("mlp", depth=1, hidden=8, lstm=4)),
    }
    module, rollout = Collaboration(agents, [transfer()], T_max=120), random_rollout()
    logits = logits_on(module, rollout)
    h = torch.zeros(2)
    for t in range(rollout.steps):
        h = torch.where(rollout.resets[t], 0.0, h)
        assert_close(logits[t], rollout.obs[t] @ torch.from_numpy(WEIGHT) + h.unsqueeze(-1))
        h = h + 1
    with pytest.raises(ConfigError, match="control is 'random', but the teacher is an ONNX graph"):
        Collaboration(agents, [transfer(control="random")], T_max=120)


def test_two_runs_are_alike_where_their_graphs_are(tmp_path: Path) -> None:
    def hashed(name: str, made: Any) -> str:
        policy = str(save(tmp_path / name, made))
        return config_hash({"model": {"agents": {"a": {"policy": policy}}}})

    assert hashed("a.onnx", linear()) == hashed("b.onnx", linear()) != hashed("c.onnx", counting())


# Certificates


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    graph = network(tmp_path / "q.onnx", linear("q"), output="q", temperature=2.0)
    save_certificate(tmp_path / "stored", graph, CARTPOLE, describe(CARTPOLE), {}, {"env_steps": 3})
    (tmp_path / "q.onnx").unlink()
    return (tmp_path / "stored").rename(tmp_path / "moved")


def test_a_certificate_keeps_a_graph_and_how_it_is_read(stored: Path) -> None:
    assert sorted(path.name for path in stored.iterdir()) == [CERTIFICATE, GRAPH]
    agent, obs = CertificatedAgent(stored), torch.randn(3, 4)
    assert_close(agent.network.step(obs, torch.zeros(3, 0))[0], obs @ torch.from_numpy(WEIGHT) / 2.0)
    assert "moved" not in (stored / CERTIFICATE).read_text() and agent.certificated_at == 3


def edit(folder: Path, change: Any) -> None:
    content = json.loads((folder / CERTIFICATE).read_text())
    change(content)
    (folder / CERTIFICATE).write_text(json.dumps(content))


def test_a_certificate_of_another_graph_or_that_names_a_file_is_refused(stored: Path, tmp_path: Path) -> None:
    edit(stored, lambda content: content["network"]["trunk_options"].update(file=str(tmp_path / "q.onnx")))
    with pytest.raises(ConfigError, match="policy_options has 'file'"):
        load_certificate(stored)
    edit(stored, lambda content: content["network"]["trunk_options"].pop("file"))
    save(stored / GRAPH, custom_domain())
    with pytest.raises(ConfigError, match="changed or damaged"):
        load_certificate(stored)
    forged = sha256((stored / GRAPH).read_bytes())
    edit(stored, lambda content: content.update(sha256=forged))
    with pytest.raises(ConfigError, match=r"operators of the domain 'com\.evil'"):
        load_certificate(stored)


@pytest.mark.parametrize(
    ("spec", "said"),
    [({"obs_shape": [5]}, "they must be equal"), ({"action_meanings": ["a"]}, "they must be equal")],
)
def test_a_certificate_of_another_task_is_refused(spec: dict[str, Any], said: str, stored: Path) -> None:
    edit(stored, lambda content: content["spec"].update(spec))
    with pytest.raises(ConfigError, match=said):
        load_certificate(stored)


def test_what_only_a_network_can_is_refused_of_a_graph(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the policy is an ONNX graph, whose actions are its own"):
        CertificatedAgent(stored, actions=(1, 0))
    with pytest.raises(ConfigError, match=r"network.trunk is onnx, which does not learn"):
        build_agent("a", AgentConfig(CARTPOLE, init=str(stored)))
    with pytest.raises(ConfigError, match=r"network.trunk is onnx, which does not learn"):
        build_agent("a", AgentConfig(CARTPOLE, NetworkConfig("onnx", lstm=0)))
    agent = CertificatedAgent(stored)
    with pytest.raises(ConfigError, match="is an ONNX graph already"):
        write_onnx(tmp_path / "again.onnx", agent.network, agent.env, agent.spec, {})
    with pytest.raises(ConfigError, match=r"agents.a: nowhere.onnx cannot be read: No such file"):
        build_agent("a", AgentConfig(CARTPOLE, policy="nowhere.onnx"))
