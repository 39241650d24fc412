"""The accuracy of F, where both ends of a transfer play one game and the right alignment is known."""

from __future__ import annotations

import torch
from torch import Tensor

from cdrl_pl.transfer.alignment import Alignment

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


def one_hot_accuracy(alignment: Alignment, ground_truth: Tensor, peak: float = 4.0) -> Tensor:
    """``accuracy`` of F alone: one row per teacher action, whose logit is above the others', sum 0.

    Args:
        alignment: F.
        ground_truth: of ``ground_truth_map``, [k_alpha, k_beta].
        peak: by how much the action's logit is above the others', without unit.
    """
    rows = peak * torch.eye(len(ground_truth), device=next((p.device for p in alignment.parameters()), None))
    rows -= rows.mean(-1, keepdim=True)
    return accuracy(rows, alignment(rows), ground_truth)
