"""Graphs of agents and transfers that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from graphs import HEADS, agent, graph, new_network, store, transfer

from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([transfer("gamma", "beta")], r"transfers\[0\].teacher is 'gamma'; it must be one of alpha, beta"),
        ([transfer(), transfer("alpha", "gamma")], r"transfers\[1\].student is 'gamma'; .* alpha, beta"),
        ([transfer(), transfer("beta", "alpha"), transfer()], r"transfers\[2\]: there is already .*alpha-beta"),
    ],
)
def test_fault_28_an_impossible_edge_is_refused(edges: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph(*edges)


@pytest.mark.parametrize("option", ["T_max", "log_every", "window"])
def test_fault_28_a_run_setting_below_1_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"model.{option} is 0; it must be 1 or more"):
        graph(**{option: 0})


def test_fault_28_a_graph_without_agents_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.agents is empty"):
        Collaboration({})


def test_fault_28_an_agent_needs_a_task() -> None:
    with pytest.raises(ValueError, match=r"agents.beta needs an env or a certificate"):
        graph(agents={"beta": AgentConfig()})


def attached(module: Collaboration, folder: Path) -> Collaboration:
    """As in the run of a trainer."""
    module.trainer = pl.Trainer(default_root_dir=folder, logger=False, accelerator="cpu", enable_progress_bar=False)
    return module


def test_fault_28_a_graph_in_which_nothing_learns_is_refused(tmp_path: Path) -> None:
    store(tmp_path, new_network(3))
    with pytest.raises(ValueError, match="nothing would be trained"):
        attached(graph(agents={"alpha": AgentConfig(certificate=str(tmp_path))}), tmp_path).setup("fit")


def test_a_graph_in_which_nothing_learns_can_be_evaluated(tmp_path: Path) -> None:
    store(tmp_path, new_network(3))
    module = attached(graph(agents={"alpha": AgentConfig(certificate=str(tmp_path))}), tmp_path)
    module.setup("test")
    assert list(module.agents) == ["alpha"] and not module.playing


def test_fault_28_an_unknown_environment_is_refused_by_its_agents_name() -> None:
    with pytest.raises(ValueError, match=r"agents.beta: env.id is 'CartPole-v11'.*nearest.*'CartPole-v1'"):
        graph(agents={"beta": agent("CartPole-v11")})


def test_heads_are_those_that_these_tests_name() -> None:
    names = {name for name, _ in graph(agents={"beta": agent()}).agents["beta"].network.named_children()}
    assert names == {"trunk", "lstm", *HEADS}
