"""A known answer in MiniGrid: the stored DoorKey expert in DoorKey with its actions permuted, and with some removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import REPOSITORY
from graphs import fit, graph, played
from pools import MakePool, started, take
from torch.testing import assert_close

from cdrl_pl.agents.student import LearnerConfig
from cdrl_pl.envs import EnvConfig
from cdrl_pl.evaluation.evaluate import evaluate
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.alignment import AlignmentConfig
from cdrl_pl.transfer.transfer import TransferConfig

pytestmark = [pytest.mark.packages, pytest.mark.slow]
pytest.importorskip("minigrid")

EXPERT = str(REPOSITORY / "teachers" / "minigrid_doorkey")
PERMUTED = (2, 0, 5, 1, 6, 3, 4)
KEPT = (0, 1, 2, 3, 5)  # all but drop and done, which DoorKey needs for nothing
TASK = EnvConfig("MiniGrid-DoorKey-5x5-v0")
NETWORK = NetworkConfig(depth=2, lstm=64)


def doorkey(student: AgentConfig, alignment: AlignmentConfig, T_max: int = 100) -> Collaboration:
    torch.manual_seed(1)
    edge = TransferConfig("expert", "student", 0, 10**6, "never", alignment=alignment)
    return graph(edge, agents={"expert": AgentConfig(certificate=EXPERT), "student": student}, T_max=T_max)


@pytest.mark.parametrize("actions", [PERMUTED, KEPT], ids=["permuted", "removed"])
def test_the_relabelled_expert_opens_the_door(actions: tuple[int, ...]) -> None:
    (expert,) = graph(agents={"expert": AgentConfig(certificate=EXPERT, actions=actions)}).agents.values()
    assert expert.env.actions == actions and expert.spec.num_actions == len(actions)
    assert evaluate(expert.network, expert.env, episodes=16, seed=2).mean > 0.85
    wrong = replace(expert.env, actions=(*actions[1:], actions[0]))
    assert evaluate(expert.network, wrong, episodes=2, seed=2).mean < 0.5


@pytest.mark.parametrize("actions", [PERMUTED, KEPT], ids=["permuted", "removed"])
def test_an_alignment_recovers_which_action_is_which(actions: tuple[int, ...], tmp_path: Path) -> None:
    """Two of the seven actions are of no use, so that F sees little of them: it need not know what they are."""
    student = AgentConfig(certificate=EXPERT, actions=actions)
    module = doorkey(student, AlignmentConfig(hidden=64, lr=3e-3), T_max=6400)
    fit(module, played(copies=8, steps=20), tmp_path)
    latest = module.run_log.latest
    assert latest["alignment_accuracy/expert-student"] >= 0.9
    assert latest["alignment_accuracy/expert-student/one_hot"] >= 4 / 7 - 1e-6


@pytest.mark.parametrize("actions", [PERMUTED, KEPT])
def test_the_right_alignment_says_in_the_students_actions_what_the_expert_says(
    actions: tuple[int, ...], make_pool: MakePool
) -> None:
    """The expert reads the student's game, whose actions it does not know, through the student's own workers."""
    task = replace(TASK, actions=actions, view=graph(agents={"e": AgentConfig(certificate=EXPERT)}).agents["e"].view)
    module = doorkey(AgentConfig(task, NETWORK, LearnerConfig()), AlignmentConfig("known"))
    (edge,), student = module.transfers, module.agents["student"]
    assert student.spec.action_meanings == tuple(map(str, actions))
    pool = make_pool(task, student.spec, NETWORK, copies=4, steps=20)
    for rollout in take(started(pool, student.network), 2):
        logits = edge.ask(rollout, *module.ends(edge)).logits
        aligned = edge.alignment(logits).softmax(-1)
        p = logits.softmax(-1)
        removed = 1 - p[..., list(actions)].sum(-1, keepdim=True)  # of what the student does not have
        assert_close(aligned, p[..., list(actions)] + removed / len(actions), atol=2e-5, rtol=1e-4)
        if actions == KEPT:
            assert removed.max() > 1e-3
        else:
            assert removed.abs().max() < 1e-5
            wanted = torch.tensor([PERMUTED.index(i) for i in range(7)])
            assert torch.equal(aligned.argmax(-1), wanted[logits.argmax(-1)])
