"""Workers and learner threads by cores, agents, teachers and what learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cdrl_pl.system.balance import MOST_THREADS, PICTURES, VECTORS, Costs, balance

CORES, AGENTS = (2, 4, 8, 16, 64), (1, 2, 3, 4)


def speed(cores: int, agents: int, costs: Costs, workers: int, threads: int) -> float:
    """Decisions per ms: what is played, what is learned, and what so many cores can do at once; whichever is least."""
    learner = costs.learn / costs.speedup(threads)
    return min(workers * agents / costs.play, 1 / learner, cores / (costs.play + threads * learner))


def every(cores: int, agents: int) -> Iterator[tuple[int, int]]:
    """Every choice with no more workers than cores in which several threads have cores of their own."""
    for threads in range(1, MOST_THREADS + 1):
        for workers in range(1, max(1, cores // agents) + 1):
            if threads == 1 or threads + workers * agents <= cores:
                yield workers, threads


@pytest.mark.parametrize(
    ("cores", "wanted"),
    [
        (2, [(2, 1), (1, 1), (1, 1), (1, 1)]),
        (4, [(3, 1), (2, 1), (1, 1), (1, 1)]),
        (8, [(5, 3), (2, 2), (2, 2), (1, 2)]),
        (16, [(8, 7), (4, 7), (3, 7), (2, 7)]),
        (64, [(8, 7), (4, 7), (3, 7), (2, 7)]),
    ],
)
def test_workers_and_threads_of_one_to_four_agents(cores: int, wanted: list[tuple[int, int]]) -> None:
    """With pictures: what learns limits from 8 cores on, and gets threads."""
    found = [balance(cores, agents, PICTURES) for agents in AGENTS]
    assert [(one.workers, one.threads) for one in found] == wanted


@pytest.mark.parametrize("costs", [PICTURES, VECTORS, replace(PICTURES, learn=0.26)])
@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("agents", AGENTS)
def test_no_choice_is_reckoned_much_faster(cores: int, agents: int, costs: Costs) -> None:
    found = balance(cores, agents, costs)
    reached = speed(cores, agents, costs, found.workers, found.threads)
    assert reached >= 0.95 * max(speed(cores, agents, costs, *choice) for choice in every(cores, agents))


def test_small_matrices_get_one_thread_and_no_more_workers_than_it_can_learn_from() -> None:
    assert [(b.workers, b.threads) for b in (balance(cores, 1, VECTORS) for cores in CORES)] == [
        (2, 1), (4, 1), (4, 1), (4, 1), (4, 1),
    ]  # fmt: skip


def test_teachers_make_learning_dearer_and_get_its_threads_cores() -> None:
    alone, taught = balance(8, 1, PICTURES), balance(8, 1, PICTURES, teachers=1)
    assert taught.threads > alone.threads and taught.workers < alone.workers


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("agents", AGENTS)
@pytest.mark.parametrize("how", ["gpu", "in_turn"])
def test_where_the_learner_needs_no_core_beside_them_every_core_plays(cores: int, agents: int, how: str) -> None:
    found = balance(cores, agents, PICTURES, **{how: True})
    assert found.workers == max(1, cores // agents) and found.threads == 1


def test_what_is_given_holds_and_the_other_suits_it() -> None:
    assert balance(16, 1, PICTURES, workers=2).threads == 1  # two workers play no more than one thread learns
    assert balance(16, 1, PICTURES, workers=8).threads > 4
    assert balance(16, 1, PICTURES, threads=1).workers == 3
    both = balance(2, 1, PICTURES, workers=8, threads=4)
    assert (both.workers, both.threads) == (8, 4)


def test_cores_that_nothing_would_use_are_named() -> None:
    assert "49 cores are left" in balance(64, 1, PICTURES).why and "left" not in balance(2, 1, PICTURES).why
