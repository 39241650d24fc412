"""Transfers between real games of different action counts, and between networks of different structures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import Recorder, fit, graph, played, transfer

from cdrl_pl.envs import EnvConfig, View
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig

pytestmark = pytest.mark.slow

GAMES = {"Pong-2017": 6, "ALE/Breakout-v5": 4, "ALE/Freeway-v5": 3, "ALE/Riverraid-v5": 18}
OTHERS = [name for name in GAMES if name != "Pong-2017"]
CONV = NetworkConfig("conv", channels=4, lstm=8)


def taught(teacher: AgentConfig, student: AgentConfig, folder: Path, **options: Any) -> tuple[Collaboration, Recorder]:
    """Two rollouts of 10 decisions of both, with F and distillation on."""
    recorder = Recorder()
    module = graph(transfer(**options), agents={"alpha": teacher, "beta": student}, T_max=20)
    fit(module, played(), folder, recorder)
    return module, recorder


def check(module: Collaboration, recorder: Recorder) -> None:
    """F and the student's distillation layer learned, and everything is finite."""
    assert recorder.changed_at("_transfers.alpha-beta.alignment.") == [0, 10]
    assert recorder.changed_at("_agents.beta.network.distill_head.") == [0, 10]
    assert all(torch.isfinite(v).all() for v in recorder.weights[-1].values())
    assert module.run_log.latest["distillation_kl/alpha-beta"] >= 0


@pytest.mark.parametrize(("alpha", "beta"), [(a, b) for o in OTHERS for a, b in (("Pong-2017", o), (o, "Pong-2017"))])
def test_games_of_different_action_counts_teach_each_other(alpha: str, beta: str, tmp_path: Path) -> None:
    module, recorder = taught(AgentConfig(EnvConfig(alpha), CONV), AgentConfig(EnvConfig(beta), CONV), tmp_path)
    (edge,) = module.transfers
    assert (module.ends(edge)[0].num_actions, edge.config.teaching_agent) == (GAMES[alpha], "alpha")
    assert edge.alignment(torch.zeros(GAMES[alpha])).shape == (GAMES[beta],)
    check(module, recorder)


STRUCTURES = {
    "no LSTM teaches LSTM": (NetworkConfig("conv", channels=4, lstm=0), CONV),
    "LSTM teaches no LSTM": (CONV, NetworkConfig("conv", channels=4, lstm=0)),
    "residual teaches wider conv": (NetworkConfig("residual", channels=3, depth=3, lstm=4), CONV),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_networks_of_different_structures_teach_each_other(name: str, tmp_path: Path) -> None:
    alpha, beta = STRUCTURES[name]
    env = EnvConfig("ALE/Freeway-v5")
    module, recorder = taught(AgentConfig(EnvConfig("Pong-2017"), alpha), AgentConfig(env, beta), tmp_path)
    check(module, recorder)
    assert module.transfers[0].teacher.states[0].shape == (2, 2 * alpha.lstm)


@pytest.mark.parametrize(("alpha", "beta"), [("Acrobot-v1", "CartPole-v1"), ("CartPole-v1", "Acrobot-v1")])
def test_an_mlp_teacher_reads_vectors_of_another_length(alpha: str, beta: str, tmp_path: Path) -> None:
    agents = [
        AgentConfig(EnvConfig(name), NetworkConfig("mlp", 1, 1, 8, lstm)) for name, lstm in ((alpha, 0), (beta, 4))
    ]
    check(*taught(*agents, tmp_path, observations="pad"))


@pytest.mark.parametrize("how", ["resize", "pad"])
def test_a_teacher_of_larger_images_reads_the_students(how: str, tmp_path: Path) -> None:
    alpha = AgentConfig(EnvConfig("Pong-2017", view=View(size=50)), CONV)
    check(*taught(alpha, AgentConfig(EnvConfig("ALE/Freeway-v5"), CONV), tmp_path, observations=how))
