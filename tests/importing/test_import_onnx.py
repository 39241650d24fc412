"""ONNX graphs become teachers: proved by playing, and run as they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from command_line import Run, pole, run, tiny, write
from import_command import DATA, Import, imports

from cdrl_pl.agents.certificate import load_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.importing.sb3 import read_sb3
from cdrl_pl.onnx.export import graph_of
from cdrl_pl.onnx.network import OnnxNetwork

onnx = pytest.importorskip("onnx", reason='needs pip install "cdrl-pl[onnx]"')
pytest.importorskip("onnxscript", reason='needs pip install "cdrl-pl[onnx]"')
pytest.importorskip("onnxruntime", reason='needs pip install "cdrl-pl[onnx]"')

__all__ = ["imports", "run"]


@cache
def content(name: str) -> bytes:
    """A graph of one of the policies in tests/data/sb3."""
    return graph_of(read_sb3(DATA / f"{name}.zip").build(), describe(EnvConfig("CartPole-v1")), {})


def graph(name: str, path: Path, **renamed: str) -> Path:
    """The same in a file, with other names of what goes in and out."""
    model = onnx.load_from_string(content(name))
    ports = [*model.graph.input, *model.graph.output]
    for old, new in renamed.items():
        for node in model.graph.node:
            node.input[:] = [new if one == old else one for one in node.input]
            node.output[:] = [new if one == old else one for one in node.output]
        for port in ports:
            port.name = new if port.name == old else port.name
    path.write_bytes(model.SerializeToString())
    return path


def test_a_graph_becomes_a_teacher_that_plays_and_teaches(imports: Import, tmp_path: Path, run: Run) -> None:
    task = "{id: CartPole-v1, max_episode_steps: 100}"
    code, out, _ = imports(
        "onnx", graph("ppo", tmp_path / "ppo.onnx"), "--env", task, "--out", "pole", "--episodes", 4, "--expect", 100
    )
    assert code == 0 and "stored pole: sampled 100.00, greedy 100.00" in out
    (tmp_path / "ppo.onnx").unlink()  # the teacher has its own
    agent = CertificatedAgent("pole")
    assert isinstance(agent.network, OnnxNetwork) and agent.certificate.training["imported"]["format"] == "onnx"
    obs, none = torch.randn(50, 4), torch.zeros(50, dtype=torch.bool)
    original = read_sb3(DATA / "ppo.zip").build()
    found, wanted = (n.act(obs, n.initial_state(50), none)[0] for n in (agent.network, original))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    transfer = {"teacher": "expert", "student": "pole", "T1": 40, "T2": 80}
    agents = {"expert": {"certificate": "pole"}, "pole": pole()}
    assert run("fit", "--config", write(tmp_path / "c.yaml", tiny(transfers=[transfer], **agents))).model.clock >= 120


def test_q_values_under_other_names_get_a_temperature(imports: Import, tmp_path: Path) -> None:
    path = graph("dqn", tmp_path / "dqn.onnx", obs="input", logits="q_values")
    told = (path, "--env", "CartPole-v1", "--episodes", 8, "--out", "pole")
    code, _, err = imports("onnx", *told)
    assert code == 2 and "has no input 'obs'; it has input" in err
    code, _, err = imports("onnx", *told, "--graph", "{output: q, names: {obs: input, q: q_values}}")
    assert code == 0 and "divided by the temperature" in err
    certificate, _ = load_certificate("pole")
    assert certificate.network.trunk_options["temperature"] == certificate.training["imported"]["temperature"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--statistics", "seen.npz"], "--statistics is 'seen.npz', but a graph is run as it is; leave it out"),
        (["--graph", "{outptu: q}"], "policy_options has 'outptu'; a graph has output, temperature, divisor, names"),
        (["--graph", "q"], "--graph is 'q'; it must be a mapping"),
        (["--temperature", "2"], "has no Q-values; leave it out"),
    ],
)
def test_a_wrong_option_is_refused(imports: Import, tmp_path: Path, words: list[str], said: str) -> None:
    path = graph("ppo", tmp_path / "ppo.onnx")
    code, _, err = imports("onnx", path, "--env", "CartPole-v1", "--out", "pole", *words)
    assert code == 2 and said in err and not Path("pole").exists()


def test_a_graph_of_another_task_is_refused(imports: Import, tmp_path: Path) -> None:
    code, _, err = imports("onnx", graph("ppo", tmp_path / "ppo.onnx"), "--env", "Acrobot-v1", "--out", "pole")
    assert code == 2 and "the policy reads observations of shape (4,), Acrobot-v1 gives (6,)" in err
