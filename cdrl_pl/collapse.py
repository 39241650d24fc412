"""When a policy counts as one that no longer looks at its observations: by its state information, line after line."""

from __future__ import annotations

import math
from collections.abc import Iterable

LOOKED = 1e-3  # nats of state information from which on a policy counts as one that looks at its observations
LEFT = 1e-3  # share of the most that it ever had, below which it counts as one that does not
LINES = 3  # log lines in a row


class Collapse:
    """The state information of one policy, as its run goes on.

    Attributes:
        most: that it had before, in nats.
        lines: log lines in a row in which nearly nothing of it was left.
    """

    def __init__(self, most: float = 0.0, lines: int = 0) -> None:
        self.most, self.lines = most, lines

    def add(self, information: float) -> bool:
        """Takes the next line's, in nats; returns whether the policy counts as collapsed."""
        gone = self.most >= LOOKED and information < LEFT * self.most
        self.lines = self.lines + 1 if gone else 0
        self.most = max(self.most, information)
        return self.lines >= LINES


def collapses(lines: Iterable[tuple[float, float]]) -> list[tuple[float, float | None]]:
    """Where a run's policy was collapsed.

    Args:
        lines: T and state information in nats of every log line; those that are not numbers are passed over.

    Returns:
        From which T to which, of each time; None: to the end.
    """
    found: list[tuple[float, float | None]] = []
    policy, began = Collapse(), 0.0
    for env_steps, information in lines:
        if math.isnan(information):
            continue
        before = policy.lines
        collapsed = policy.add(information)
        if policy.lines == 1:
            began = env_steps
        if collapsed and before < LINES:
            found.append((began, None))
        elif not collapsed and before >= LINES:
            found[-1] = (found[-1][0], env_steps)
    return found
