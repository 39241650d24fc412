"""Policies of several choices at once, against torch's own distributions one by one; and what may not be played."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.testing import assert_close

from cdrl_pl import losses
from cdrl_pl.distributions import (
    IMPOSSIBLE,
    action_statistics,
    entropy,
    log_prob,
    log_softmax,
    most_probable,
    sample,
)
from cdrl_pl.transfer.weighting import teacher_value
from cdrl_pl.types import masked

COUNTS = (3, 2, 4)


def draw(seed: int = 0, *shape: int) -> torch.Tensor:
    return 2 * torch.randn(*(shape or (5, 2, 9)), generator=torch.Generator().manual_seed(seed))


def choices(logits: torch.Tensor) -> list[Categorical]:
    return [Categorical(logits=part) for part in logits.split(list(COUNTS), -1)]


def actions(seed: int = 0) -> torch.Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(count, (5, 2), generator=make) for count in COUNTS], -1)


def test_log_probabilities_and_entropies_are_sums_over_choices() -> None:
    logits, played = draw(), actions()
    expected = sum(one.log_prob(played[..., i]) for i, one in enumerate(choices(logits)))
    assert_close(log_prob(logits, played, COUNTS), expected)
    assert_close(entropy(logits, COUNTS), sum(one.entropy() for one in choices(logits)))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergences_are_sums_over_choices(temperature: float) -> None:
    target, student = draw(1), draw(2)
    p, q = choices(target / temperature), choices(student)
    mixed = [Categorical(probs=(a.probs + b.probs) / 2) for a, b in zip(p, q, strict=True)]
    forward = sum(kl_divergence(a, b) for a, b in zip(p, q, strict=True))
    backward = sum(kl_divergence(b, a) for a, b in zip(p, q, strict=True))
    both = sum((kl_divergence(a, m) + kl_divergence(b, m)) / 2 for a, b, m in zip(p, q, mixed, strict=True))
    for kind, expected in (("forward", forward), ("reverse", backward), ("jensen_shannon", both)):
        assert_close(losses.divergence(kind, target, student, temperature, COUNTS), expected)  # type: ignore[arg-type]


def test_one_choice_of_all_is_what_no_counts_are() -> None:
    target, student, played = draw(1), draw(2), actions()[..., 2]
    assert torch.equal(log_prob(student, played[..., None], (9,)), log_prob(student, played))
    assert torch.equal(losses.kl(target, student, 1.0, (9,)), losses.kl(target, student))
    assert_close(action_statistics(student, (9,)), action_statistics(student))


def test_every_choice_is_drawn_by_its_own_probabilities() -> None:
    logits = draw(3, 9).numpy()
    rows = np.tile(logits, (40_000, 1))
    drawn, log_p = sample(rows, np.random.default_rng(0).random((len(rows), 3)), COUNTS)
    assert drawn.shape == (len(rows), 3)
    for i, one in enumerate(choices(torch.from_numpy(logits))):
        np.testing.assert_allclose(np.bincount(drawn[:, i]) / len(rows), one.probs, atol=0.01)
    expected = log_prob(torch.from_numpy(rows), torch.from_numpy(drawn), COUNTS)
    np.testing.assert_allclose(log_p, expected, atol=1e-5)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1]) < 0.02  # and independently of the others
    assert most_probable(rows[:1], COUNTS)[0].tolist() == [int(o.probs.argmax()) for o in choices(torch.tensor(logits))]


def test_what_an_action_says_of_the_state_is_summed_over_choices() -> None:
    logits = draw(4)
    mean, information = action_statistics(logits, COUNTS)
    parts = [action_statistics(part) for part in logits.split(list(COUNTS), -1)]
    assert_close(mean, torch.cat([part for part, _ in parts]))
    assert_close(information, sum((part for _, part in parts), torch.tensor(0.0)))


def test_following_a_teacher_in_every_choice_is_worth_what_its_joint_policy_is() -> None:
    """Three choices are one among 24, each of probability the product of three."""
    target, logits, played, advantages = draw(5), draw(6), actions(), draw(7, 5, 2)

    def joint(said: torch.Tensor) -> torch.Tensor:
        one, two, three = log_softmax(said, COUNTS).split(list(COUNTS), -1)
        both = (one[..., :, None] + two[..., None, :]).flatten(-2)
        return (both[..., :, None] + three[..., None, :]).flatten(-2)

    index = (played[..., 0] * 2 + played[..., 1]) * 4 + played[..., 2]
    expected = teacher_value(joint(target), joint(logits), index, advantages)
    assert_close(teacher_value(target, logits, played, advantages, COUNTS), expected)


@pytest.mark.parametrize("counts", [(), COUNTS])
def test_what_may_not_be_played_has_no_probability_no_entropy_and_no_gradient(counts: tuple[int, ...]) -> None:
    masks = torch.rand(5, 2, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[..., [0, 3, 5]] = True  # of every choice something may be
    raw, target = draw(8).requires_grad_(), masked(draw(9), masks)
    logits = masked(raw, masks)
    assert (log_softmax(logits, counts).exp()[~masks] == 0).all()
    rows, width = logits.detach().flatten(0, 1).numpy(), len(counts)
    drawn, _ = sample(rows, np.random.default_rng(1).random((10, width) if width else 10), counts)
    flat = drawn if not counts else drawn + np.array([0, 3, 5])
    allowed = masks.flatten(0, 1).numpy()
    assert np.take_along_axis(allowed, flat.reshape(10, -1), -1).all()
    kinds = [losses.divergence(kind, target, logits, 0.1, counts) for kind in losses.DIVERGENCES]  # type: ignore[arg-type]
    total = sum((kind.sum() for kind in kinds), entropy(logits, counts).sum())
    total.backward()
    assert raw.grad is not None and torch.isfinite(total) and torch.isfinite(raw.grad).all()
    assert (raw.grad[~masks] == 0).all() and (raw.grad[masks] != 0).any()
    few = masked(torch.zeros(1, 1, 9), torch.arange(9) < 3)  # as among those alone that may be played
    assert entropy(few).item() == pytest.approx(np.log(3)) and few.min() == IMPOSSIBLE
