"""What a transfer's teacher would do at one decision of its student after another: what videos show beside the play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cdrl_pl.agents.agent import Agent
from cdrl_pl.evaluation.bars import Bars
from cdrl_pl.evaluation.evaluate import Decision
from cdrl_pl.transfer.transfer import Transfer
from cdrl_pl.types import Rollout

WATCHED = -1  # the worker that a watched game counts as: the teacher's memory of it is its own


class Advice:
    """The policies of a student, and of each of its teachers with and without F, at a decision.

    Args:
        agents: by name.
        student: name of the agent that plays.
        transfers: those that teach it.
    """

    def __init__(self, agents: Mapping[str, Agent], student: str, transfers: Sequence[Transfer]) -> None:
        self._agents, self._student, self._transfers = agents, student, transfers

    def __call__(self, decision: Decision) -> list[Bars]:
        """In the order in which they are shown."""
        own = self._agents[self._student].spec.action_meanings
        found = [Bars(f"student {self._student}", own, _shares(decision.logits), decision.action)]
        for transfer in self._transfers:
            config = transfer.config
            teacher, student = self._agents[config.teacher], self._agents[config.student]
            with torch.inference_mode():
                logits = transfer.teacher_logits(_rollout(decision), teacher.network, student.network)
                aligned = transfer.alignment(logits)
            names = self._agents[config.teaching_agent].spec.action_meanings
            control = "" if config.control == "none" else f" (control: {config.control})"
            found.append(Bars(f"teacher {config.teacher}{control}", names, _shares(logits[0, 0])))
            found.append(Bars(f"{config.teacher} aligned", own, _shares(aligned[0, 0])))
        return found


def _shares(logits: torch.Tensor) -> np.ndarray[Any, Any]:
    return torch.softmax(logits.float(), -1).numpy(force=True)


def _rollout(decision: Decision) -> Rollout:
    """The decision as a rollout of one step of one copy, of which a teacher reads observation, reset and state."""
    zeros = torch.zeros(1, 1)
    return Rollout(
        obs=decision.obs.expand(2, *decision.obs.shape),
        resets=torch.stack([decision.resets, torch.zeros_like(decision.resets)]),
        actions=torch.full((1, 1), decision.action),
        rewards=zeros,
        terminated=zeros.bool(),
        truncated=zeros.bool(),
        final_values=zeros,
        log_probs=zeros,
        state=decision.state,
        worker=WATCHED,
    )
