"""Alignments without weights: the transport and the least squares against references, and known answers in runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import FixedData, Recorder, agent, fit, graph, new_network, random_batch, random_rollout, spread, store
from graphs import transfer as edge
from numpy.testing import assert_allclose
from resuming import SaveAt, differences, final_state
from torch import Tensor
from wide_cartpole import CARTPOLE, WIDE

from callbacks import StoredAlignment
from cdrl_pl import losses
from cdrl_pl.checks import ConfigError
from cdrl_pl.distributions import IMPOSSIBLE
from cdrl_pl.presets import PRESETS
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig
from cdrl_pl.transfer.fitted import FITTED, FittedAlignment, LeastSquares, SortedTransport, _transport

KINDS = sorted(FITTED)


def logits(seed: int, actions: int, rows: int = 400) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, 3, actions, generator=make) + torch.randn(actions, generator=make)


def fitted(network: FittedAlignment, teacher: Tensor, student: Tensor, times: int = 1) -> FittedAlignment:
    for _ in range(times):
        network.add(network.sums(teacher, student))
    return network


# The transport


UNITS = 6  # in which probabilities are told here, so that every way to move them can be tried


@pytest.mark.parametrize("seed", range(20))
def test_the_transport_is_the_cheapest_of_all(seed: int) -> None:
    """Cost: the square of the distance on the line on which actions lie from the most to the least likely."""
    rng = np.random.default_rng(seed)
    k, n = rng.integers(2, 5, 2)
    theirs, own = rng.multinomial(UNITS, np.ones(k) / k), rng.multinomial(UNITS, np.ones(n) / n)
    shares = _transport(torch.tensor(theirs / UNITS), torch.tensor(own / UNITS)).numpy()
    assert_allclose(shares.sum(1), theirs > 0, atol=1e-12)
    assert_allclose(theirs @ shares, own, atol=1e-9)
    places = [np.argsort(np.argsort(-units, kind="stable")) / (len(units) - 1) for units in (theirs, own)]
    cost = (places[0][:, None] - places[1][None]) ** 2
    sources, targets = np.repeat(np.arange(k), theirs), np.repeat(np.arange(n), own)
    cheapest = min(cost[sources, targets[list(order)]].sum() for order in itertools.permutations(range(UNITS)))
    assert (theirs[:, None] * shares * cost).sum() <= cheapest + 1e-9


def test_two_equal_policies_of_permuted_actions_are_matched_exactly() -> None:
    teacher, order = logits(1, 5), torch.tensor([3, 0, 4, 1, 2])
    network = fitted(SortedTransport((5,), (5,)), teacher, teacher[..., order])
    assert_allclose(network(teacher).softmax(-1), teacher[..., order].softmax(-1), atol=1e-4)


def test_the_aligned_teacher_plays_each_action_as_often_as_the_student() -> None:
    teacher, student = logits(1, 6), logits(2, 3)
    aligned = fitted(SortedTransport((6,), (3,)), teacher, student)(teacher)
    assert_allclose(aligned.softmax(-1).mean((0, 1)), student.softmax(-1).mean((0, 1)), atol=1e-5)


# The least squares


def test_the_affine_map_is_numpys_least_squares() -> None:
    teacher, student = logits(1, 5), logits(2, 3)
    student = student + teacher[..., :3]  # something to find
    network = fitted(LeastSquares((5,), (3,)), teacher, student)

    def centred(x: Tensor) -> np.ndarray[Any, Any]:
        values = x.double().flatten(0, 1).numpy()
        return np.asarray(values - values.mean(1, keepdims=True))

    read = np.concatenate([centred(teacher), np.ones((1200, 1))], 1)
    expected = read @ np.linalg.lstsq(read, centred(student), rcond=None)[0]
    assert_allclose(network(teacher).flatten(0, 1), expected, atol=1e-3)


def test_an_affine_relation_is_found() -> None:
    teacher = logits(1, 5)
    centred = teacher - teacher.mean(-1, keepdim=True)
    student = centred @ torch.randn(5, 3, generator=torch.Generator().manual_seed(5)) + torch.tensor([0.0, 1.0, -1.0])
    aligned = fitted(LeastSquares((5,), (3,)), teacher, student)(teacher)
    assert losses.kl(student, aligned).max() < 1e-3


def test_an_action_that_may_not_be_played_does_not_spoil_the_fit() -> None:
    teacher = logits(1, 4)
    student = teacher.clone()
    student[..., 3] = IMPOSSIBLE
    aligned = fitted(LeastSquares((4,), (4,)), teacher, student)(teacher)
    assert torch.isfinite(aligned).all() and aligned.softmax(-1)[..., 3].max() < 1e-3


# Both


@pytest.mark.parametrize("kind", KINDS)
def test_before_it_has_seen_anything_all_actions_are_alike(kind: str) -> None:
    assert_allclose(FITTED[kind]((5,), (3,))(logits(1, 5)).softmax(-1), 1 / 3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_add_up_to_the_whole(kind: str) -> None:
    teacher, student = logits(1, 5), logits(2, 3)
    network = FITTED[kind]((5,), (3,))
    halves = [network.sums(teacher[part], student[part]) for part in (slice(0, 100), slice(100, None))]
    assert_allclose(sum(halves), network.sums(teacher, student), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_long_ago_is_forgotten(kind: str) -> None:
    teacher = logits(1, 4)
    old, new = teacher[..., [1, 0, 3, 2]], teacher[..., [2, 3, 0, 1]]
    network = fitted(FITTED[kind]((4,), (4,)), teacher, old, times=50)
    assert losses.kl(new, network(teacher)).mean() > 0.5
    fitted(network, teacher, new, times=1500)
    assert losses.kl(new, network(teacher)).mean() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_several_choices_are_aligned_each_by_itself(kind: str) -> None:
    parts, orders = (logits(1, 3), logits(2, 2)), (torch.tensor([2, 0, 1]), torch.tensor([1, 0]))
    teacher = torch.cat(parts, -1)
    student = torch.cat([part[..., order] for part, order in zip(parts, orders, strict=True)], -1)
    network = fitted(FITTED[kind]((3, 2), (3, 2)), teacher, student)
    assert losses.kl(student, network(teacher), counts=(3, 2)).max() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_nothing(kind: str) -> None:
    teacher, student = logits(1, 5), logits(2, 3)
    plain = fitted(FITTED[kind]((5,), (3,)), teacher, student)
    with torch.autocast("cpu", torch.bfloat16):
        cast = fitted(FITTED[kind]((5,), (3,)), teacher, student)
        assert_allclose(cast(teacher), plain(teacher), atol=1e-5)


# In runs


def make(folder: Path, kind: str, game: str = WIDE, T_max: int = 120, **options: Any) -> Collaboration:
    store(folder / "expert", new_network(3, actions=5 if game == WIDE else 2), game)
    agents = {"alpha": AgentConfig(certificate=str(folder / "expert")), "beta": agent()}
    module = graph(edge(kind=kind, **options), agents=agents, T_max=T_max)
    spread(module.agents["beta"].network)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_fitted_from_t1_to_stop_and_no_optimizer_steps_it(tmp_path: Path, kind: str) -> None:
    module, recorder = make(tmp_path, kind, T1=30, T2=60, stop=90), Recorder()
    batches = [random_batch(module, seed) for seed in range(12)]
    trainer = fit(module, FixedData(*batches), tmp_path, recorder)
    assert recorder.changed_at("_transfers.alpha-beta.alignment.network.matrix") == [30, 40, 50, 60, 70, 80]
    assert recorder.changed_at("_agents.beta.network.distill_head.")[0] == 60
    assert len(trainer.optimizers) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    def run(**options: Any) -> Any:
        module = make(tmp_path, kind, T1=20, T2=60)
        batches = [random_batch(module, seed) for seed in range(12)]
        start = int(options["ckpt_path"].stem) // 10 if "ckpt_path" in options else 0
        trainer = fit(module, FixedData(*batches[start:]), tmp_path, SaveAt(tmp_path, 20, 40, 80), **options)
        return final_state(module, trainer)

    whole = run()
    for clock in (20, 40, 80):
        assert differences(run(ckpt_path=tmp_path / f"{clock}.ckpt"), whole) == []


def test_in_one_game_both_find_the_right_alignment_of_the_students_own_policy(tmp_path: Path) -> None:
    """Self-distillation: what F reads is what it is fitted to, so that the known answer is the identity."""
    for kind in KINDS:
        module = make(tmp_path, kind, game=CARTPOLE, control="own", T1=0, T2=10_000)
        module.agents["beta"].learner.lr = 1e-9
        fit(module, FixedData(random_batch(module)), tmp_path)
        transfer, rollout = module.transfers[0], random_rollout()
        said = transfer.ask(rollout, *module.ends(transfer)).logits
        assert losses.kl(said, transfer.alignment(said)).mean() < 0.05, kind


@pytest.mark.parametrize("kind", KINDS)
def test_different_numbers_of_choices_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"alignment.kind is '{kind}', but the teacher chooses from \(3, 2\)"):
        Alignment(AlignmentConfig(kind), 5, 2, PRESETS["paper"], counts=((3, 2), ()))


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_nothing_to_store(tmp_path: Path, kind: str) -> None:
    module = make(tmp_path, kind)
    with pytest.raises(ConfigError, match="no transfer has an alignment function to train"):
        fit(module, FixedData(random_batch(module)), tmp_path, StoredAlignment())
