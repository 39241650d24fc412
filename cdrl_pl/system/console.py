"""One terminal: while something is drawn live, whatever is printed, logged or warned of goes above it. Torch-free."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text


class _Above(io.TextIOBase):
    """Stands for a stream to the terminal: its lines, once whole, are printed by the console, none of them broken."""

    def __init__(self, stream: TextIO, console: Console) -> None:
        self.rich_proxied_file = stream  # where a console that would write to this one shall write
        self._console, self._rest = console, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Nothing: what is no whole line yet would be drawn over."""

    def end(self) -> None:
        """Prints what is no whole line, where nothing follows."""
        if self._rest:
            self.write("\n")

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.rich_proxied_file.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.rich_proxied_file.encoding


@contextmanager
def said_above(console: Console) -> Iterator[None]:
    """What is said goes through the console that draws: of the standard streams, where they are terminals, and of every
    log handler that writes to them. Handlers hold on to the stream of the time they were made.
    """
    before = sys.stdout, sys.stderr
    above: dict[TextIO, _Above] = {}
    for stream in {*before, sys.__stdout__, sys.__stderr__} - {None}:
        if stream is not None and stream.isatty():
            above[stream] = _Above(stream, console)
    moved = [(handler, handler.stream) for handler in _handlers() if handler.stream in above]
    sys.stdout, sys.stderr = (above.get(stream, stream) for stream in before)
    for handler, stream in moved:
        handler.setStream(above[stream])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for handler, stream in moved:
            handler.setStream(stream)
        for replaced in above.values():
            replaced.end()


def _handlers() -> set[logging.StreamHandler[Any]]:
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    handlers = {handler for logger in loggers for handler in logger.handlers}
    return {handler for handler in handlers if isinstance(handler, logging.StreamHandler)}
