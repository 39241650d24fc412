"""Where both ends of a transfer play one game the right alignment is known: the accuracy of F, an F right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdrl_pl.distributions import Counts, log_softmax

FLOOR = 1e-6  # probability of what F never chooses: a KL needs all of them above 0


class Task(NamedTuple):
    """What an agent plays, as far as an alignment depends on it.

    Attributes:
        game: its id.
        meanings: of the agent's actions.
        counts: of the actions of each choice, where several are made at once.
    """

    game: str
    meanings: tuple[str, ...]
    counts: Counts = ()


def ground_truth_map(teacher: Task, student: Task) -> Tensor | None:
    """Which of the student's actions play the same as each of the teacher's: bool [k_alpha, k_beta].

    None where the two are not the same game: then no alignment is known to be right.
    """
    if teacher.game != student.game:
        return None
    return torch.tensor([[theirs == own for own in student.meanings] for theirs in teacher.meanings])


def accuracy(
    teacher_logits: Tensor,
    aligned: Tensor,
    ground_truth: Tensor,
    counts: Counts = (),
    student_counts: Counts = (),
) -> Tensor:
    """Share of rows where F's most probable play is the teacher's most probable play: a scalar.

    Actions that play the same count together, with the sum of their probabilities, on both sides; a play that the
    student does not have counts as wrong. Where several choices are made at once, each counts by itself.

    Args:
        teacher_logits: [..., k_alpha].
        aligned: F of them [..., k_beta].
        ground_truth: of ``ground_truth_map``, [k_alpha, k_beta].
        counts: of the teacher's actions of each choice.
        student_counts: of the student's.
    """
    return _right(teacher_logits, aligned, ground_truth, counts, student_counts).mean()


def _right(teacher_logits: Tensor, aligned: Tensor, ground_truth: Tensor, counts: Counts, own: Counts) -> Tensor:
    """Whether F's play is the teacher's [..., K], in each of K choices."""
    same = (ground_truth[:, None] == ground_truth).all(
        -1
    )  # [k_alpha, k_alpha]: two of the teacher's actions that play the same
    theirs = log_softmax(teacher_logits, counts).exp() @ same.float()
    found = log_softmax(aligned, own).exp() @ ground_truth.float().T  # [..., k_alpha]: probability of the play of each
    parts = []
    sizes = list(counts or (len(ground_truth),))
    for wanted, made in zip(theirs.split(sizes, -1), found.split(sizes, -1), strict=True):
        of_wanted = made.gather(-1, wanted.argmax(-1, keepdim=True))
        parts.append(of_wanted >= made.amax(-1, keepdim=True) - 1e-6)
    return torch.cat(parts, -1).float()


def one_hot_accuracy(
    alignment: nn.Module, ground_truth: Tensor, peak: float = 4.0, counts: Counts = (), student_counts: Counts = ()
) -> Tensor:
    """``accuracy`` of F alone: one row per teacher action, whose logit is above the others', sum 0.

    Args:
        alignment: F.
        ground_truth: of ``ground_truth_map``, [k_alpha, k_beta].
        peak: by how much the action's logit is above the others', without unit.
        counts: of the teacher's actions of each choice; a row counts in the choice of its action alone.
        student_counts: of the student's.
    """
    sizes = list(counts or (len(ground_truth),))
    rows = torch.block_diag(*(peak * (torch.eye(size) - 1 / size) for size in sizes)).to(ground_truth.device)
    right = _right(rows, alignment(rows), ground_truth, counts, student_counts)
    choice = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(right.device)
    return right.gather(-1, choice[:, None]).mean()


class KnownAlignment(nn.Module):
    """An F that is right as often as it is told to be, to measure what an alignment is worth; nothing in it is trained.

    F(z) = log(softmax(z) M). A row of M has the probability ``right``, shared, on the student's actions that play what
    the teacher's action plays, and the rest, shared, on the others. Under a forward KL, whose gradient is linear in the
    target, that is the mean of an F that in every state is right with that probability and else says any other action.
    An action that the student does not have becomes any of its actions, each as likely.

    Args:
        ground_truth: of ``ground_truth_map``, [k_alpha, k_beta].
        right: probability, 0 to 1.
        exchanged: indices of the teacher's actions whose images go round in a cycle: F is wrong for these.
        counts: of the actions of each choice, the same on both sides; an action's image is in its own choice.
    """

    matrix: Tensor

    def __init__(
        self, ground_truth: Tensor, right: float = 1.0, exchanged: Sequence[int] = (), counts: Counts = ()
    ) -> None:
        super().__init__()
        self.counts = counts
        images = ground_truth.clone()
        images[list(exchanged)] = ground_truth[[*exchanged[1:], *exchanged[:1]]]
        inside = torch.block_diag(*(torch.ones(n, n) for n in counts)).bool() if counts else torch.ones_like(images)
        others, known = inside & ~images, images.any(-1, keepdim=True)
        shares = right * images / images.sum(-1, keepdim=True) + (1 - right) * others / others.sum(-1, keepdim=True)
        matrix = torch.where(known, shares, 1 / images.shape[1]).nan_to_num(1.0).clamp(min=FLOOR) * inside
        self.register_buffer("matrix", matrix / matrix.sum(-1, keepdim=True), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """[..., k_alpha] -> [..., k_beta], fp32; without a fall below what fp32 can hold."""
        log_p = log_softmax(logits, self.counts)
        return torch.logsumexp(log_p.unsqueeze(-1) + self.matrix.log(), -2)
