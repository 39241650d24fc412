"""The request to end a run: a signal only sets a flag, which is looked at where the run can end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGUSR1,  # how Slurm's --signal is mostly used
    signal.SIGHUP,  # the terminal was closed
)


def ignore_signals() -> None:
    """For workers: a batch system tells every process of a job, a terminal too; the trainer ends its own."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def take(action: Callable[[int, FrameType | None], None], *signals: signal.Signals) -> None:
    """Has the signals do this; not SIGHUP where it is ignored, as under nohup. Only a process's main thread can."""
    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, action)


class Stopped(BaseException):
    """What waits or evaluates was told to end. (No ``Exception``: no handler of errors may take it for one.)"""


def end_at_once_when_told() -> None:
    """Until a ``StopRequest`` takes the signals: who is told to end says so and ends, as a shell has it.

    Nothing is under way that would have to be saved.
    """
    take(_end, *SIGNALS)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"told to end by {signal.Signals(number).name} before it began: nothing is lost\n".encode())
    raise SystemExit(128 + number)


class StopRequest:
    """The request of SIGTERM, SIGUSR1, SIGHUP or Ctrl-C that this process end.

    Learning ends at the next batch's boundary, waiting and evaluations at once. A second Ctrl-C interrupts whatever is
    done.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Returns whether the process was told to end."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """As a shell has it: 143 after SIGTERM, 130 after Ctrl-C, 138 after SIGUSR1, 129 after SIGHUP; else 0."""
        return 0 if self.signal is None else 128 + self.signal

    def install(self) -> None:
        """Takes the signals from now on."""
        take(self._note, *SIGNALS)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def check(self) -> None:
        """Raises ``Stopped`` where the process was told to end."""
        if self.signal is not None:
            raise Stopped(f"told to end by {self.signal.name}")
