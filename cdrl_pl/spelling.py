"""The name that was probably meant, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(wrong: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    """Returns ``"; did you mean X?"``, or an empty text where nothing is near.

    Args:
        wrong: the name that is not known.
        known: the names that are.
        cutoff: least similarity, from 0 to 1, of a name that is suggested.
    """
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
