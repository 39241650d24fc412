"""Bounded waits that a stopped process does not lose."""

from __future__ import annotations

import time

TICK = 0.5  # seconds that one look waits
LONGEST = 1.0  # seconds between two looks that count


class Patience:
    """Seconds that may pass while nothing comes, looked at after every wait of ``TICK`` seconds.

    Between two looks ``LONGEST`` counts at most: while this process was stopped (Ctrl-Z, a frozen container), those it
    waits for were, too.

    Args:
        seconds: that may pass.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Something came."""
        self._left, self._looked = self._seconds, time.monotonic()

    def is_over(self) -> bool:
        """Looks; True once too much has passed."""
        now = time.monotonic()
        self._left -= min(now - self._looked, LONGEST)
        self._looked = now
        return self._left < 0
