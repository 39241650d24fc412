"""Networks as ONNX graphs: the same numbers, from a file that says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import REPOSITORY
from graphs import spread
from torch import Tensor

from cdrl_pl import __version__
from cdrl_pl.__main__ import main
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.envs import EnvConfig, EnvSpec
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.onnx import export
from cdrl_pl.onnx.export import TOLERANCE, graph_of, run, states_of, write_onnx
from cdrl_pl.onnx.extra import OnnxError, needed
from cdrl_pl.onnx.session import start

onnx = pytest.importorskip("onnx", reason='needs pip install "cdrl-pl[onnx]"')
pytest.importorskip("onnxscript", reason='needs pip install "cdrl-pl[onnx]"')
pytest.importorskip("onnxruntime", reason='needs pip install "cdrl-pl[onnx]"')
pytestmark = pytest.mark.slow

VECTOR = EnvSpec((4,), "float32", ("left", "right"))
PICTURE = EnvSpec((2, 9, 9), "uint8", ("NOOP", "UP", "DOWN"))
NETWORKS = {
    "mlp": (NetworkConfig("mlp", depth=2, hidden=8, lstm=0, activation="tanh"), VECTOR),
    "normalised": (NetworkConfig("mlp", depth=1, hidden=8, lstm=0, value="own", normalise=True), VECTOR),
    "conv": (NetworkConfig("conv", channels=4, depth=2, lstm=0, activation="relu"), PICTURE),
    "lstm": (NetworkConfig("mlp", depth=1, hidden=8, lstm=5), VECTOR),
    "gru": (NetworkConfig("mlp", hidden=(8, 6), lstm=0, gru=5, after=(7,), activation="tanh"), VECTOR),
    "impala": (NetworkConfig("impala", hidden=(12, 8), lstm=0, normalise=True, clip=5.0), PICTURE),
    "memory_alone": (NetworkConfig("mlp", hidden=(), lstm=6), VECTOR),
    "residual_lstm": (NetworkConfig("residual", channels=4, depth=2, lstm=6), PICTURE),
}


def made(name: str) -> tuple[PolicyNetwork, EnvSpec]:
    config, spec = NETWORKS[name]
    network = spread(PolicyNetwork(config, spec.obs_shape, spec.num_actions)).eval().requires_grad_(False)
    if network.normaliser is not None:
        rows = torch.randn(500, 4) * torch.tensor([1.0, 5.0, 0.1, 20.0]) + 3.0
        if spec.obs_dtype == "uint8":
            rows = drawn(spec, 500)
        network.normaliser.add(network.normaliser.sums(rows))
    return network, spec


def drawn(spec: EnvSpec, *size: int) -> Tensor:
    """Random observations [*size, *observation]."""
    if spec.obs_dtype == "uint8":
        return torch.randint(0, 256, (*size, *spec.obs_shape), dtype=torch.uint8)
    return 4.0 * torch.randn(*size, *spec.obs_shape)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the greatest number, or of 1 where that is less: fp32 has seven digits."""
    if expected.numel():
        scale = expected.abs().max().clamp(min=1.0)
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_says_what_its_network_says_of_a_thousand_observations_with_resets(name: str, tmp_path: Path) -> None:
    network, spec = made(name)
    written = write_onnx(path := tmp_path / "a.onnx", network, EnvConfig("CartPole-v1"), spec, {})
    assert written.difference <= TOLERANCE
    content = path.read_bytes()
    assert str(REPOSITORY).encode() not in content and b".py" not in content  # no file of this machine is named
    session, obs, resets = start(content, "a"), drawn(spec, 100, 10), torch.rand(100, 10) < 0.2
    state = begun = torch.randn(10, network.state_size).tanh()
    assert resets.any() and not resets.all()
    expected = network(obs, begun, resets)
    for t in range(100):
        state = state.masked_fill(resets[t].unsqueeze(-1), 0.0)
        logits, values, state = run(session, states_of(network), obs[t], state)
        assert_equal(logits, expected.logits[t])
        assert_equal(values, expected.values[t])
    assert_equal(state, expected.state)
    assert expected.logits.std(0).amax() > 0.01  # it depends on what is observed


@pytest.mark.parametrize("teacher", ["pong", "minigrid_doorkey", "cartpole"])
def test_a_real_teacher_can_be_written(teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "below" / f"{teacher}.onnx"
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as end:
        patched.setattr("sys.argv", ["cdrl_pl", "export", str(REPOSITORY / "teachers" / teacher), "--out", str(out)])
        main()
    said = capsys.readouterr().out
    assert end.value.code == 0 and f"{out.stat().st_size:,} bytes" in said and "logits float32 [batch, " in said
    assert float(said.partition("the network's own within ")[2].split()[0]) < 1e-4
    agent = CertificatedAgent(REPOSITORY / "teachers" / teacher)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["cdrl_pl.version"] == __version__ and about["cdrl_pl.env"] == agent.env.id
    assert json.loads(about["cdrl_pl.actions"]) == list(agent.spec.action_meanings)
    assert json.loads(about["cdrl_pl.obs_shape"]) == list(agent.spec.obs_shape)
    assert about["cdrl_pl.weights_sha256"] == agent.certificate.sha256


def test_a_graph_of_another_network_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the comparison: one number of one part is off by a thousandth."""
    network, spec = made("lstm")
    content = graph_of(network, spec, {})
    monkeypatch.setattr(export, "graph_of", lambda *arguments: content)
    for part in ("policy_head", "value_head", "lstm"):
        number = next(getattr(network, part).parameters()).view(-1)
        number[0] += 1e-3
        with pytest.raises(OnnxError, match=r"of the graph differs from the network's by .*not written"):
            write_onnx(tmp_path / "a.onnx", network, EnvConfig("CartPole-v1"), spec, {})
        number[0] -= 1e-3
        assert list(tmp_path.iterdir()) == []
    write_onnx(tmp_path / "a.onnx", network, EnvConfig("CartPole-v1"), spec, {})  # as it was


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["cdrl_pl", "export", *words])
    with pytest.raises(SystemExit) as end:
        main()
    first, *rest = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and rest == ["python -m cdrl_pl export --help lists every option"]
    return first


def test_what_cannot_be_written_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, out = str(REPOSITORY / "teachers" / "cartpole"), tmp_path / "a.onnx"
    assert "nobody" in refused(capsys, monkeypatch, str(tmp_path / "nobody"), "--out", str(out))
    assert "must end in .onnx" in refused(capsys, monkeypatch, teacher, "--out", str(tmp_path / "a.zip"))
    out.write_text("mine")
    assert f"{out} is there already" in refused(capsys, monkeypatch, teacher, "--out", str(out))
    assert out.read_text() == "mine"


def test_a_missing_package_is_refused_by_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)  # as where it is not installed
    said = refused(capsys, monkeypatch, str(REPOSITORY / "teachers" / "cartpole"), "--out", str(tmp_path / "a.onnx"))
    assert said == 'error: ONNX needs the package onnxscript, which is not installed: pip install "cdrl-pl[onnx]"'
    with pytest.raises(OnnxError, match="needs the package no_such_module"):
        needed("no_such_module")
