"""Nothing that a certificate names is imported before a person at a terminal has said yes."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import MODULE, REPOSITORY, call
from terminal import Terminal

from cdrl_pl.agents.certificate import save_certificate
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.networks import NetworkConfig, PolicyNetwork

pytestmark = pytest.mark.slow
SUPPORT = str(REPOSITORY / "tests" / "support")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    env = EnvConfig("toy_envs:ScaledToy-v0")
    network = PolicyNetwork(NetworkConfig(trunk="own_parts.Wide", lstm=0), (3,), 3)
    save_certificate(tmp_path / "toy", network, env, describe(env), {}, {})
    return tmp_path / "toy"


def test_a_person_is_asked_for_each_module(folder: Path) -> None:
    command = (*MODULE, "test", "--teacher", "toy", "--episodes", "1")
    terminal = Terminal(*command, folder=folder.parent, columns=300, PYTHONPATH=SUPPORT)
    terminal.write("y\nn\n")
    text = terminal.read_to_the_end()
    assert "names the module own_parts as its network.trunk. Import it? [y/N]" in text
    assert "names the module toy_envs as its env.id. Import it? [y/N]" in text
    assert terminal.process.returncode == 2 and "ScaledToy-v0 was registered by the module 'toy_envs'" in text


def test_without_a_terminal_nobody_is_asked(folder: Path) -> None:
    refused = call("test", "--teacher", folder, "--episodes", "1", cwd=folder.parent, PYTHONPATH=SUPPORT)
    assert refused.returncode == 2 and "--trust own_parts beside --teacher" in refused.stderr
    done = call(
        "test", "--teacher", folder, "--trust", "own_parts,toy_envs", "--episodes", "1", cwd=folder.parent,
        PYTHONPATH=SUPPORT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
