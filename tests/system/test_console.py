"""What is said while something is drawn, and what processes use."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import time

import pytest
from rich.console import Console
from rich.live import Live

from cdrl_pl.system.console import said_above
from cdrl_pl.system.usage import Usage


class Screen(io.StringIO):
    """A terminal of which everything is kept."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Takes the place of both streams. (No fixture: pytest puts its own there once a test begins.)"""
    made = Screen()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr(sys, "stdout", made)
    return made


def console(screen: Screen) -> Console:
    return Console(file=screen, force_terminal=True, width=20, color_system=None)


def test_a_handler_of_before_writes_through_the_console_and_then_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    logger, handler = logging.getLogger("said_above"), logging.StreamHandler()
    logger.addHandler(handler)
    try:
        with (
            Live("drawn", console=console(screen), auto_refresh=False, redirect_stderr=False) as live,
            said_above(live.console),
        ):
            logger.warning("through")
            assert handler.stream is not screen
        assert handler.stream is screen
    finally:
        logger.removeHandler(handler)
    erased, _, after = screen.getvalue().partition("through\n")
    assert erased.endswith("\x1b[2K") and after.startswith("drawn")  # above what is drawn, which is drawn anew


def test_lines_of_both_streams_are_not_broken_and_pieces_wait_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = terminal(monkeypatch)
    long = "a path that is much longer than the terminal is wide"
    with said_above(console(screen)):
        print(long)
        print("one", end=" ")
        assert "one" not in screen.getvalue()
        print("line")
        print("beware", file=sys.stderr)
        print("never ended", end="")
    assert f"{long}\n" in screen.getvalue() and "one line\n" in screen.getvalue()
    assert "beware\n" in screen.getvalue() and screen.getvalue().endswith("never ended\n")
    assert sys.stdout is screen and sys.stderr is screen


def test_a_stream_that_is_no_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``python -m cdrl_pl fit > log``."""
    screen, log = terminal(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    with said_above(console(screen)):
        assert sys.stdout is log
        print("into the log")
    assert log.getvalue() == "into the log\n" and screen.getvalue() == ""


BUSY = "data = bytearray(b'x' * 200_000_000)\nprint(flush=True)\nwhile True: pass"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_process_that_is_busy_and_holds_memory_is_counted() -> None:
    usage = Usage()
    alone = usage.look([])
    child = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline()
        began = usage.look([child.pid])
        time.sleep(1.0)
        then = usage.look([child.pid])
    finally:
        child.kill()
        child.wait()
    assert alone is not None and began is not None and then is not None
    assert 190e6 < then.memory - alone.memory < 300e6 and 0.05 < then.cores < 1.5
    ended = usage.look([child.pid])
    assert ended is not None and ended.memory < alone.memory + 50e6
