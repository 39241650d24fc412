"""What a transfer's teacher would do at one decision of its student after another: what videos show beside the play."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cdrl_pl.agents.agent import Agent
from cdrl_pl.distributions import Counts, log_softmax, starts
from cdrl_pl.evaluation.bars import Bars
from cdrl_pl.evaluation.evaluate import Decision
from cdrl_pl.transfer.transfer import Transfer
from cdrl_pl.types import Rollout, masked

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
        spec = self._agents[self._student].spec
        own, counts = spec.action_meanings, spec.action_counts
        chosen = [decision.action] if isinstance(decision.action, int) else decision.action
        played = [start + action for start, action in zip(starts(counts) or [0], chosen, strict=True)]
        found = [Bars(f"student {self._student}", own, _shares(decision.logits, counts), played)]
        for transfer in self._transfers:
            config = transfer.config
            teacher, student = self._agents[config.teacher], self._agents[config.student]
            with torch.inference_mode():
                said = transfer.ask(_rollout(decision), teacher.network, student.network)
                aligned = masked(transfer.alignment(transfer.alignment.reads(said)), decision.masks)
            theirs = self._agents[config.teaching_agent].spec
            names = theirs.action_meanings
            control = "" if config.control == "none" else f" (control: {config.control})"
            found.append(
                Bars(f"teacher {config.teacher}{control}", names, _shares(said.logits[0, 0], theirs.action_counts))
            )
            found.append(Bars(f"{config.teacher} aligned", own, _shares(aligned[0, 0], counts)))
        return found


def _shares(logits: torch.Tensor, counts: Counts) -> np.ndarray[Any, Any]:
    return log_softmax(logits, counts).exp().numpy(force=True)


def _rollout(decision: Decision) -> Rollout:
    """The decision as a rollout of one step of one copy, of which a teacher reads observation, reset and state."""
    zeros = torch.zeros(1, 1)
    return Rollout(
        obs=decision.obs.expand(2, *decision.obs.shape),
        resets=torch.stack([decision.resets, torch.zeros_like(decision.resets)]),
        actions=torch.tensor(decision.action)[None, None],
        rewards=zeros,
        terminated=zeros.bool(),
        truncated=zeros.bool(),
        final_values=zeros,
        log_probs=zeros,
        state=decision.state,
        worker=WATCHED,
    )
