"""Tasks whose right alignment is known: the offline protocol recovers the map between two experts' actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import REPOSITORY
from graphs import fit, played
from torch import Tensor

from callbacks import StoredAlignment
from cdrl_pl.presets import PRESETS
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig
from cdrl_pl.transfer.alignment_file import load_alignment
from cdrl_pl.transfer.ground_truth import Task, accuracy, ground_truth_map, one_hot_accuracy
from cdrl_pl.transfer.transfer import TransferConfig

TEACHERS = REPOSITORY / "teachers"
PLAIN, SWAPPED, ENLARGED = ("0", "1"), ("1", "0"), ("1", "0", "1")
EDGE = "expert-target"


def recover(folder: Path, target: AgentConfig, **options: Any) -> Collaboration:
    """The first stage of the offline protocol: the stored CartPole expert's logits to another's, 16,000 decisions."""
    torch.manual_seed(1)
    agents = {"expert": AgentConfig(certificate=str(TEACHERS / "cartpole")), "target": target}
    edge = TransferConfig(
        "expert", "target", 0, 10**6, "never", alignment=AlignmentConfig(hidden=64, lr=1e-3), **options
    )
    module = Collaboration(agents, [edge], T_max=16_000, log_every=4_000)
    fit(module, played(copies=16, steps=10), folder, StoredAlignment())
    return module


def scores(module: Collaboration) -> tuple[float, float]:
    latest = module.run_log.latest
    return latest[f"alignment_accuracy/{EDGE}"], latest[f"alignment_accuracy/{EDGE}/one_hot"]


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collaboration, Path]:
    """Towards an expert that was trained on its own, with its actions swapped and one of them there twice."""
    folder = tmp_path_factory.mktemp("recovered")
    return recover(folder, AgentConfig(certificate=str(TEACHERS / "cartpole_enlarged"))), folder


def test_the_offline_protocol_recovers_the_map_between_two_experts(recovered: tuple[Collaboration, Path]) -> None:
    """Where either action is nearly as good, two experts differ, so F cannot follow the teacher in every state."""
    on_states, one_hot = scores(recovered[0])
    assert one_hot == 1.0 and on_states >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("actions", [(1, 0), (0, 1), (1, 0, 1)])
def test_the_offline_protocol_recovers_every_relabelling_of_one_expert(
    actions: tuple[int, ...], tmp_path: Path
) -> None:
    target = AgentConfig(certificate=str(TEACHERS / "cartpole"), actions=actions)
    on_states, one_hot = scores(recover(tmp_path, target))
    assert on_states >= 0.95 and one_hot >= 0.95


@pytest.mark.parametrize("control", ["constant", "shuffled"])
def test_a_teacher_that_knows_nothing_recovers_no_map(control: Any, tmp_path: Path) -> None:
    """The control of the tests above."""
    target = AgentConfig(certificate=str(TEACHERS / "cartpole_enlarged"))
    assert scores(recover(tmp_path, target, control=control))[0] <= 0.65


def test_what_was_recovered_is_stored(recovered: tuple[Collaboration, Path]) -> None:
    module, folder = recovered
    record, network = load_alignment(folder / "alignment" / EDGE / "alignment.safetensors")
    assert (record.teacher, record.student) == (PLAIN, ENLARGED)
    trained = module.transfers[0].alignment.network.state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in network.state_dict().items())


def test_the_stored_alignment_of_the_repository_is_right() -> None:
    """alignments/cartpole-swapped, which configs/ground_truth/cartpole.yaml loads."""
    path = str(REPOSITORY / "alignments" / "cartpole-swapped" / "alignment.safetensors")
    stored = Alignment(AlignmentConfig(file=path), 2, 2, PRESETS["paper"], (PLAIN, SWAPPED))
    known = ground_truth_map(Task("CartPole-v1", PLAIN), Task("CartPole-v1", SWAPPED))
    assert known is not None and one_hot_accuracy(stored, known) == 1.0


# The measure itself


def slow_accuracy(teacher_logits: Tensor, aligned: Tensor, theirs: tuple[str, ...], own: tuple[str, ...]) -> float:
    """Row by row, adding up probabilities by what the actions mean."""

    def play(logits: list[float], meanings: tuple[str, ...]) -> str:
        p = np.exp(logits) / np.exp(logits).sum()
        return max(sorted(set(meanings)), key=lambda m: sum(x for x, n in zip(p, meanings, strict=True) if n == m))

    rows = zip(teacher_logits.flatten(0, -2).tolist(), aligned.flatten(0, -2).tolist(), strict=True)
    return float(np.mean([play(a, theirs) == play(b, own) for a, b in rows]))


@pytest.mark.parametrize(
    ("theirs", "own"),
    [("ab", "ba"), ("ab", "bab"), ("bab", "ab"), ("abcdef", "fbdace"), ("aabbc", "cba"), ("abc", "ab"), ("ab", "abc")],
)
def test_accuracy_counts_actions_that_play_the_same_together(theirs: str, own: str) -> None:
    make = torch.Generator().manual_seed(len(theirs + own))
    teacher_logits, aligned = (torch.randn(7, 11, len(s), generator=make) for s in (theirs, own))
    known = ground_truth_map(Task("game", tuple(theirs)), Task("game", tuple(own)))
    assert known is not None and known.shape == (len(theirs), len(own))
    expected = slow_accuracy(teacher_logits, aligned, tuple(theirs), tuple(own))
    if set(own) <= set(theirs):  # otherwise what the teacher cannot play takes no part
        assert accuracy(teacher_logits, aligned, known) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 1


def test_the_right_map_scores_1_and_the_wrong_one_0() -> None:
    known = ground_truth_map(Task("game", PLAIN), Task("game", SWAPPED))
    teacher_logits = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert known is not None
    assert (
        accuracy(teacher_logits, teacher_logits.flip(-1), known) == 1.0
        and accuracy(teacher_logits, teacher_logits, known) == 0.0
    )


def test_a_duplicated_action_is_not_at_a_disadvantage() -> None:
    """0.6 for a play of two actions, 0.3 in each, is more than 0.4 for the other."""
    known = ground_truth_map(Task("game", PLAIN), Task("game", ENLARGED))
    assert known is not None
    assert accuracy(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.3, 0.4, 0.3]]]).log(), known) == 1.0


def test_no_map_is_known_between_different_games() -> None:
    assert ground_truth_map(Task("ALE/Pong-v5", PLAIN), Task("ALE/Bowling-v5", PLAIN)) is None
