"""What Lightning says of other uses of it than this one is left out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

QUIET = [
    "Experiment logs directory .* exists and is not empty",  # the folder was made for this run, or named by its config
    "Total length of `EvaluationJobs` across ranks is zero",
    ".*isinstance.treespec, LeafSpec.. is deprecated",
    "`weights_only` was not set",
    "You are trying to `self.log\\(\\)`",
]
QUIET_NOTES = ("Seed set to", "`weights_only` was not set", "GPU available: False", "TPU available: False", "litlogger")


class _Quiet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(note in record.getMessage() for note in QUIET_NOTES)


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out ``QUIET`` and ``QUIET_NOTES`` meanwhile."""
    notes = _Quiet()
    handlers = [h for name in ("lightning_fabric", "pytorch_lightning") for h in logging.getLogger(name).handlers]
    with warnings.catch_warnings():
        for noise in QUIET:
            warnings.filterwarnings("ignore", message=noise)
        for handler in handlers:
            handler.addFilter(notes)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(notes)
