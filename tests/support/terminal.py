"""A real pseudo-terminal, read back: what was drawn over is lost, as it is for a person."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import termios
from fcntl import ioctl
from pathlib import Path

import pyte
from command_line import environment


class Terminal:
    """A process in a pseudo-terminal, whose screen and history are what a person could still read."""

    def __init__(self, *command: str, folder: Path, columns: int = 100, rows: int = 40, **variables: str) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        variables = environment(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(rows), **variables)
        self.process = subprocess.Popen(command, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._master = ours

    def write(self, text: str) -> None:
        """Types ``text``."""
        os.write(self._master, text.encode())

    def read_to_the_end(self) -> str:
        """Everything that was not drawn over."""
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other side was closed
                break
            if not data:
                break
            self._stream.feed(data)
        os.close(self._master)
        self.process.wait(60)
        top = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*top, *self.screen.display])
