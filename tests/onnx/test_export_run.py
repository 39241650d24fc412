"""Agents of a run as ONNX graphs: those of its checkpoint, and of no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import REPOSITORY, edge, pole, tiny, write

from cdrl_pl.cli import main as cli
from cdrl_pl.cli.exporting import main as export
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.storage.verified import sha256

onnx = pytest.importorskip("onnx", reason='needs pip install "cdrl-pl[onnx]"')
pytest.importorskip("onnxscript", reason='needs pip install "cdrl-pl[onnx]"')
pytest.importorskip("onnxruntime", reason='needs pip install "cdrl-pl[onnx]"')
pytestmark = pytest.mark.slow
FOLDER = "runs/version_0"
Said = Callable[..., str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, PolicyNetwork]]]:
    """A folder with a run of an agent with memory, one with a normaliser and a frozen one, and the run's networks."""
    folder = tmp_path_factory.mktemp("run")
    plain: dict[str, Any] = {**pole(), "network": {"trunk": "mlp", "hidden": [8], "lstm": 0, "normalise": True}}
    agents = {"alpha": pole(), "beta": plain, "expert": {"certificate": str(REPOSITORY / "teachers" / "cartpole")}}
    config = write(folder / "config.yaml", tiny(transfers=[edge()], **agents))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv(cli.RUN_VERSION, "")
        module = cli.run(["fit", "--config", str(config)]).model
        yield folder, {name: agent.network for name, agent in module.agents.items()}


@pytest.fixture
def folder(
    ended: tuple[Path, dict[str, PolicyNetwork]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, PolicyNetwork]:
    """The run's networks; its folder is copied into the current one."""
    shutil.copytree(ended[0] / FOLDER, tmp_path / FOLDER)
    monkeypatch.chdir(tmp_path)
    return ended[1]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Said:
    def go(*words: str | Path) -> str:
        with pytest.raises(SystemExit) as end:
            export([*map(str, words), "--out", "a.onnx"])
        first, last = capsys.readouterr().err.strip().splitlines()
        assert end.value.code == 2 and last == "python -m cdrl_pl export --help lists every option"
        assert not Path("a.onnx").exists()
        return first.removeprefix("error: ")

    return go


def checkpoint() -> Path:
    return max(Path(FOLDER).rglob("env_steps=*.ckpt"))


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_an_agent_of_a_checkpoint_says_what_it_said_in_its_run(folder: dict[str, PolicyNetwork], name: str) -> None:
    network = folder[name].eval()
    assert export([FOLDER if name == "alpha" else str(checkpoint()), "--agent", name, "--out", "a.onnx"]) == 0
    session = __import__("onnxruntime").InferenceSession("a.onnx")
    obs, state = 3.0 * torch.randn(1000, 4), torch.randn(1000, network.state_size).tanh()
    states = dict(zip(("h", "c"), (part.numpy() for part in state.chunk(2, -1)), strict=True)) if state.numel() else {}
    with torch.no_grad():
        wanted = network.step(obs, state)
    logits, values, *after = (torch.from_numpy(x) for x in session.run(None, {"obs": obs.numpy(), **states}))
    torch.testing.assert_close(logits, wanted[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values, wanted[1], atol=1e-5, rtol=1e-5)
    if after:
        torch.testing.assert_close(torch.cat(after, -1), wanted[2], atol=1e-5, rtol=1e-5)
    about = {entry.key: entry.value for entry in onnx.load("a.onnx").metadata_props}
    assert (about["cdrl_pl.agent"], about["cdrl_pl.env_steps"], about["cdrl_pl.env"]) == (name, "120", "CartPole-v1")
    assert about["cdrl_pl.checkpoint_sha256"] == sha256(checkpoint().read_bytes())


def test_which_agent_must_be_clear(folder: dict[str, PolicyNetwork], refused: Said) -> None:
    assert refused(FOLDER) == "--agent is missing; it must be one of alpha, beta"
    assert refused(FOLDER, "--agent", "gamma") == "--agent is 'gamma'; it must be one of alpha, beta"
    assert "--agent is 'expert', which does not learn: it is " in refused(FOLDER, "--agent", "expert")
    assert "--trust is 'parts', but runs/version_0 is of a run" in refused(FOLDER, "--agent", "beta", "--trust=parts")
    teacher = REPOSITORY / "teachers" / "cartpole"
    assert refused(teacher, "--agent", "a") == f"--agent is 'a', but {teacher} is no run; leave it out"


def test_a_config_of_another_network_or_game_is_refused(folder: dict[str, PolicyNetwork], refused: Said) -> None:
    path = Path(FOLDER, "config.yaml")
    for part, change, said in (
        ("network", {"hidden": [9]}, "the network of agents.beta is another than the config's"),
        ("env", {"id": "Acrobot-v1"}, "agents.beta: env."),
        ("network", {"depht": 1}, "agents.beta cannot be read: NetworkConfig has no depht"),
    ):
        config = yaml.safe_load(text := path.read_text())
        config["model"]["agents"]["beta"][part].update(change)
        path.write_text(yaml.safe_dump(config))
        assert said in refused(FOLDER, "--agent", "beta")
        path.write_text(text)
    path.write_text("model: {}")
    assert refused(FOLDER, "--agent", "beta") == "runs/version_0/config.yaml has no model.agents"
    path.unlink()
    assert "needs the config.yaml of its run" in refused(FOLDER, "--agent", "beta")


def test_what_is_no_whole_checkpoint_is_refused(folder: dict[str, PolicyNetwork], refused: Said) -> None:
    path = checkpoint()
    path.write_bytes(path.read_bytes()[:-500])
    assert refused(path, "--agent", "beta") == f"{path} is no checkpoint, or damaged"
    for other in path.parent.glob("*.ckpt"):
        other.write_bytes(b"")
    assert refused(FOLDER, "--agent", "beta") == "runs/version_0 has no whole checkpoint (env_steps=N.ckpt)"
    assert "nowhere" in refused("nowhere")
