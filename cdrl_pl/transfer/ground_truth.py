"""Where both ends of a transfer play one game the right alignment is known: the accuracy of F, an F right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-6  # probability of what F never chooses: a KL needs all of them above 0

Task = tuple[str, tuple[str, ...]]
"""The id of a game, and what the actions of an agent in it mean."""


def ground_truth_map(teacher: Task, student: Task) -> Tensor | None:
    """Which of the student's actions play the same as each of the teacher's: bool [k_alpha, k_beta].

    None where the two are not the same game: then no alignment is known to be right.
    """
    if teacher[0] != student[0]:
        return None
    return torch.tensor([[theirs == own for own in student[1]] for theirs in teacher[1]])


def accuracy(teacher_logits: Tensor, aligned: Tensor, ground_truth: Tensor) -> Tensor:
    """Share of rows where F's most probable play is the teacher's most probable play: a scalar.

    Actions that play the same count together, with the sum of their probabilities, on both sides; a play that the
    student does not have counts as wrong.

    Args:
        teacher_logits: [..., k_alpha].
        aligned: F of them [..., k_beta].
        ground_truth: of ``ground_truth_map``, [k_alpha, k_beta].
    """
    same = (ground_truth[:, None] == ground_truth).all(
        -1
    )  # [k_alpha, k_alpha]: two of the teacher's actions that play the same
    wanted = (teacher_logits.float().softmax(-1) @ same.float()).argmax(-1, keepdim=True)
    found = aligned.float().softmax(-1) @ ground_truth.float().T  # [..., k_alpha]: probability of the play of each
    return (found.gather(-1, wanted) >= found.amax(-1, keepdim=True) - 1e-6).float().mean()


def one_hot_accuracy(alignment: nn.Module, ground_truth: Tensor, peak: float = 4.0) -> Tensor:
    """``accuracy`` of F alone: one row per teacher action, whose logit is above the others', sum 0.

    Args:
        alignment: F.
        ground_truth: of ``ground_truth_map``, [k_alpha, k_beta].
        peak: by how much the action's logit is above the others', without unit.
    """
    rows = peak * torch.eye(len(ground_truth), device=ground_truth.device)
    rows -= rows.mean(-1, keepdim=True)
    return accuracy(rows, alignment(rows), ground_truth)


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
    """

    matrix: Tensor

    def __init__(self, ground_truth: Tensor, right: float = 1.0, exchanged: Sequence[int] = ()) -> None:
        super().__init__()
        images = ground_truth.clone()
        images[list(exchanged)] = ground_truth[[*exchanged[1:], *exchanged[:1]]]
        others, known = ~images, images.any(-1, keepdim=True)
        shares = right * images / images.sum(-1, keepdim=True) + (1 - right) * others / others.sum(-1, keepdim=True)
        matrix = torch.where(known, shares, 1 / images.shape[1]).nan_to_num(1.0).clamp(min=FLOOR)
        self.register_buffer("matrix", matrix / matrix.sum(-1, keepdim=True), persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        """[..., k_alpha] -> [..., k_beta], fp32; without a fall below what fp32 can hold."""
        log_p = F.log_softmax(logits.float(), -1)
        return torch.logsumexp(log_p.unsqueeze(-1) + self.matrix.log(), -2)
