"""The base of the two schedule callbacks, by which the root can tell whether they are there."""

from __future__ import annotations

from typing import Literal

import pytorch_lightning as pl


class TransferSwitch(pl.Callback):
    """A callback that sets one flag of every transfer as the run goes on.

    Attributes:
        what: the flag.
    """

    what: Literal["aligning", "distilling"]
