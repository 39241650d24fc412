"""The rollout record: cut, joined and moved without losing or mixing anything."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from cdrl_pl.types import Episode, Rollout, join

PER_STEP = ("actions", "rewards", "terminated", "truncated", "final_values", "log_probs")


def make_rollout(steps: int = 6, copies: int = 4, seed: int = 0) -> Rollout:
    """A rollout of random numbers with every field in its documented shape and dtype."""
    make = torch.Generator().manual_seed(seed)

    def bits(rows: int) -> torch.Tensor:
        return torch.rand(rows, copies, generator=make) < 0.3

    return Rollout(
        obs=torch.randint(256, (steps + 1, copies, 1, 5, 5), dtype=torch.uint8, generator=make),
        resets=bits(steps + 1),
        actions=torch.randint(3, (steps, copies), generator=make),
        rewards=torch.rand(steps, copies, generator=make),
        terminated=bits(steps),
        truncated=bits(steps),
        final_values=torch.rand(steps, copies, generator=make),
        log_probs=-torch.rand(steps, copies, generator=make),
        state=torch.rand(copies, 8, generator=make),
        worker=3,
        policy_version=11,
        episodes=(Episode(1.5, 20), Episode(-2.0, 7)),
    )


def cut(rollout: Rollout, start: int, end: int) -> Rollout:
    """Steps start..end of a rollout, as its worker would have handed them over."""
    rows = {name: getattr(rollout, name)[start : end + 1] for name in ("obs", "resets")}
    return replace(rollout, **rows, **{name: getattr(rollout, name)[start:end] for name in PER_STEP})


def assert_same(found: Rollout, expected: Rollout) -> None:
    for name, tensor in expected.tensors().items():
        assert torch.equal(getattr(found, name), tensor), name


def test_steps_and_copies() -> None:
    rollout = make_rollout(steps=6, copies=4)
    assert (rollout.steps, rollout.copies) == (6, 4)


def test_tensors_are_all_the_tensor_fields() -> None:
    assert sorted(make_rollout().tensors()) == sorted(["obs", "resets", "state", *PER_STEP])


def test_a_rollout_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_rollout().worker = 4  # type: ignore[misc]


@given(cuts=st.sets(st.integers(1, 5)))
def test_consecutive_pieces_join_to_the_whole(cuts: set[int]) -> None:
    whole = make_rollout(steps=6)
    edges = [0, *sorted(cuts), 6]
    pieces = [cut(whole, start, end) for start, end in pairwise(edges)]
    pieces[1:] = [replace(piece, state=torch.zeros_like(piece.state)) for piece in pieces[1:]]
    assert_same(join(pieces), whole)


def test_joining_keeps_every_episode_in_order() -> None:
    first = replace(make_rollout(), episodes=(Episode(1.0, 2),))
    second = replace(make_rollout(seed=1), episodes=(Episode(3.0, 4), Episode(5.0, 6)))
    assert join([first, second]).episodes == (Episode(1.0, 2), Episode(3.0, 4), Episode(5.0, 6))


def test_a_joined_rollout_has_the_version_that_began_it() -> None:
    later = replace(make_rollout(seed=1), policy_version=12)
    assert join([make_rollout(), later]).policy_version == 11


def test_select_takes_the_same_copies_of_every_field() -> None:
    rollout = make_rollout(copies=4)
    part = rollout.select(slice(1, 3))
    assert torch.equal(part.state, rollout.state[1:3])
    for name in ("obs", "resets", *PER_STEP):
        assert torch.equal(getattr(part, name), getattr(rollout, name)[:, 1:3]), name


def test_select_does_not_count_episodes_twice() -> None:
    rollout = make_rollout()
    assert rollout.episodes and not rollout.select(slice(0, 2)).episodes


def test_select_is_a_view() -> None:
    rollout = make_rollout()
    rollout.select(slice(1, 3)).rewards.fill_(9.0)
    assert (rollout.rewards[:, 1:3] == 9.0).all() and (rollout.rewards[:, :1] != 9.0).all()


@given(copies=st.integers(1, 9), size=st.integers(1, 12))
def test_split_covers_every_copy_once(copies: int, size: int) -> None:
    parts = [range(copies)[part] for part in make_rollout(copies=copies).split(size)]
    assert [copy for part in parts for copy in part] == list(range(copies))
    assert all(len(part) <= size for part in parts) and all(len(part) == size for part in parts[:-1])


def test_split_of_none_is_one_part() -> None:
    assert list(make_rollout(copies=4).split(None)) == [slice(0, 4)]


def test_a_clone_owns_its_memory() -> None:
    rollout = make_rollout()
    clone = rollout.clone()
    for tensor in rollout.tensors().values():
        tensor.zero_()
    assert_same(clone, make_rollout())


def test_to_moves_every_tensor_but_the_resets_and_keeps_the_rest() -> None:
    moved = make_rollout().to("meta")
    assert {name for name, tensor in moved.tensors().items() if tensor.device.type != "meta"} == {"resets"}
    assert (moved.worker, moved.policy_version, len(moved.episodes)) == (3, 11, 2)
