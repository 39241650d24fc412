"""What TensorBoard shows of a run: cards in an order, actions by their names, what happened, and hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from cdrl_pl.metric_names import card


class Board(TensorBoardLogger):
    """TensorBoard's logger, whose cards are named and sorted by ``metric_names.card``.

    Attributes:
        action_names: names of the actions of every policy in the log, by its source.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_names: Mapping[str, Sequence[str]] = {}

    @rank_zero_only
    def begin(
        self, settings: Mapping[str, Any], results: Sequence[str], action_names: Mapping[str, Sequence[str]]
    ) -> None:
        """At the start of a run: what it is made of, for the page of hyper-parameters and ``hparams.yaml``.

        Args:
            settings: nested mappings and lists of plain values.
            results: columns whose last values stand beside them.
            action_names: as the attribute.
        """
        self.action_names = action_names
        flat = dict(flattened(settings))
        self.hparams.update(flat)
        cards = [card(column, action_names) for column in results]
        for summary in hparams(flat, dict.fromkeys(cards, 0.0)):  # the values are those of the cards
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A line of the log, on its cards."""
        super().log_metrics({card(column, self.action_names): value for column, value in metrics.items()}, step)


def boards(module: pl.LightningModule) -> Iterator[Any]:
    """TensorBoard's writer of every logger that has one; on other ranks than the first they write nothing."""
    return (logger.experiment for logger in module.loggers if isinstance(logger, TensorBoardLogger))


def note(module: pl.LightningModule, what: str, said: str, env_steps: int) -> None:
    """A sentence on something that happened, at its T.

    Args:
        module: of the run.
        what: it is about; the name of its card.
        said: the sentence.
        env_steps: T.
    """
    for board in boards(module):
        board.add_text(f"events/{what}", said, env_steps)


def show(module: pl.LightningModule, what: str, picture: np.ndarray[Any, Any], env_steps: int) -> None:
    """A picture.

    Args:
        module: of the run.
        what: it shows; the name of its card.
        picture: [H, W, 3] uint8.
        env_steps: T.
    """
    for board in boards(module):
        board.add_image(what, picture, env_steps, dataformats="HWC")


def flattened(settings: Any, name: str = "") -> Iterator[tuple[str, str | float]]:
    """Nested settings as name -> value, ``agents.pong.learner.lr``; what is not set is left out."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from flattened(value, f"{name}.{key}" if name else str(key))
    elif isinstance(settings, str | int | float):
        yield name, settings
    elif settings is not None:
        yield name, str(settings)
