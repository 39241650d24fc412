"""One terminal: while something is drawn live, what is logged goes above it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def logs_above(before: TextIO) -> Iterator[None]:
    """Lets every log handler that wrote to the standard error ``before`` write to what it is now.

    A live display replaces ``sys.stderr`` by a stream that writes above it; handlers hold on to the old one, and what
    they wrote would be drawn over.
    """
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    moved = [
        (handler, handler.stream)
        for handler in {handler for logger in loggers for handler in logger.handlers}
        if isinstance(handler, logging.StreamHandler) and handler.stream in (before, sys.__stderr__)
    ]
    for handler, _ in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
