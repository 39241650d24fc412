"""An F that is right as often as it is told to be: against plain arithmetic, and through a whole graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import FixedData, agent, fit, graph, random_batch, transfer
from torch.testing import assert_close
from wide_cartpole import WIDE

from cdrl_pl import losses
from cdrl_pl.checks import ConfigError
from cdrl_pl.transfer.alignment import AlignmentConfig
from cdrl_pl.transfer.ground_truth import KnownAlignment, Task, ground_truth_map, one_hot_accuracy

NAMES = ("NOOP", "FIRE", "RIGHT", "LEFT")
PERMUTED = ("LEFT", "NOOP", "FIRE", "RIGHT")
LOGITS = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(1)) * 3


def known(student: tuple[str, ...] = PERMUTED, right: float = 1.0, exchanged: tuple[int, ...] = ()) -> KnownAlignment:
    truth = ground_truth_map(Task("Pong", NAMES), Task("Pong", student))
    assert truth is not None
    return KnownAlignment(truth, right, exchanged)


def test_the_right_f_permutes_the_teachers_policy() -> None:
    """As an index does, which knows nothing of matrices."""
    order = [NAMES.index(name) for name in PERMUTED]
    assert_close(known()(LOGITS).softmax(-1), LOGITS.softmax(-1)[..., order], rtol=1e-4, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0]])
    assert known()(logits).isfinite().all() and known(right=0.0)(logits).isfinite().all()


@pytest.mark.parametrize("right", [0.0, 0.5, 0.75])
def test_an_f_that_is_seldom_right_is_the_mean_over_states_of_one_that_is_right_or_not(right: float) -> None:
    """The same gradient as that of fixed maps drawn at random: with probability ``right`` the right one, else a map
    that sends every action to another one, each as likely (a forward KL is linear in its target)."""
    student = torch.zeros(4, requires_grad=True)
    q = LOGITS[0, 0].softmax(-1)

    def gradient(target: torch.Tensor) -> torch.Tensor:
        (found,) = torch.autograd.grad(losses.kl(target, student).sum(), student)
        return found

    expected = torch.zeros(4)
    for index, name in enumerate(NAMES):
        image = PERMUTED.index(name)
        for action in range(4):
            share = right if action == image else (1 - right) / 3
            one_hot = torch.full((4,), -40.0)
            one_hot[action] = 0.0
            expected += q[index] * share * gradient(one_hot)
    assert_close(gradient(known(right=right)(LOGITS[0, 0])), expected, rtol=1e-3, atol=1e-5)


def test_right_as_often_as_by_chance_says_nothing() -> None:
    assert_close(known(right=0.25)(LOGITS).softmax(-1), torch.full((7, 3, 4), 0.25), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("exchanged", "share"), [((), 1.0), ((0, 2), 0.5), ((1, 2, 3), 0.25), ((3, 0, 1, 2), 0.0)])
def test_exchanged_actions_are_wrong_and_the_others_right(exchanged: tuple[int, ...], share: float) -> None:
    truth = ground_truth_map(Task("Pong", NAMES), Task("Pong", PERMUTED))
    assert truth is not None
    assert one_hot_accuracy(known(exchanged=exchanged), truth).item() == share


def test_an_action_that_the_student_lacks_becomes_any() -> None:
    found = known(("NOOP", "LEFT"))(torch.tensor([0.0, 50.0, 0.0, 0.0])).softmax(-1)  # FIRE
    assert_close(found, torch.tensor([0.5, 0.5]), rtol=1e-3, atol=1e-4)


def test_an_action_that_the_teacher_lacks_is_never_chosen() -> None:
    found = known((*PERMUTED, "UP"))(LOGITS).softmax(-1)
    assert found.shape == (7, 3, 5) and (found[..., 4] < 1e-4).all()


def test_actions_that_play_the_same_share_alike() -> None:
    found = known((*PERMUTED, "LEFT"))(torch.tensor([0.0, 0.0, 0.0, 50.0])).softmax(-1)
    assert_close(found[[0, 4]], torch.tensor([0.5, 0.5]), rtol=1e-3, atol=1e-4)


def test_it_teaches_without_being_trained(tmp_path: Path) -> None:
    agents = {"alpha": agent(), "beta": agent()}
    edge = transfer(T1=0, T2=20)
    edge.alignment = AlignmentConfig("known", right=0.75)
    module = graph(edge, agents=agents, T_max=40)
    fit(module, FixedData(random_batch(module)), tmp_path)
    latest = module.run_log.latest
    assert latest["alignment_accuracy/alpha-beta/one_hot"] == 1.0 and latest["distillation_kl/alpha-beta"] > 0
    assert module.transfers[0].schedule.T1 is None and not list(module.transfers[0].alignment.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"right": 1.5}, "alignment.right is 1.5; it must be 0 to 1, under kind known"),
        ({"exchanged": ["0"]}, "it must be two actions or more, each once"),
        ({"exchanged": ["0", "0"]}, "it must be two actions or more, each once"),
        ({"kind": "deep", "right": 0.5}, "alignment.right is 0.5; it must be 0 to 1, under kind known"),
        ({"kind": "identity", "exchanged": ["0", "1"]}, "it must be empty, but under kind known"),
    ],
)
def test_a_known_alignment_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlignmentConfig(**{"kind": "known", **options})


def test_between_two_games_no_alignment_is_known() -> None:
    edge = transfer()
    edge.alignment = AlignmentConfig("known")
    with pytest.raises(ConfigError, match=r"alpha-beta: alignment.kind is 'known', but teacher and student"):
        graph(edge, agents={"alpha": agent(WIDE), "beta": agent()})


def test_an_exchanged_action_that_the_teacher_does_not_have_is_named() -> None:
    edge = transfer()
    edge.alignment = AlignmentConfig("known", exchanged=["0", "UP"])
    with pytest.raises(ConfigError, match="UP is none of the teacher's actions: 0, 1"):
        graph(edge, agents={"alpha": agent(), "beta": agent()})
