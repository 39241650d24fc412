"""Jobs as processes of this machine."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from cdrl_pl.executors.executor import Job, environment


def end_with_parent() -> None:
    """In the child, before it starts: SIGTERM (save, then end) when its parent dies, however it dies. Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


class LocalProcess:
    """A process of this machine, leader of a session of its own.

    Args:
        process: that was started.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.lost = process, ""

    def ask(self) -> int | None:
        """As of every process."""
        return self._process.poll()

    def end(self) -> None:
        """As of every process: SIGTERM."""
        self._process.terminate()

    def wait(self, seconds: float) -> None:
        """As of every process; what it started is killed with it."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class LocalExecutor:
    """Starts jobs on this machine. They end, saving first, when the driver dies."""

    def start(self, job: Job) -> LocalProcess:
        """As of every executor."""
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(job.variables),
                start_new_session=True,  # Ctrl-C reaches the driver alone, which then tells its runs
                preexec_fn=end_with_parent,
                pass_fds=job.held,
            )
        return LocalProcess(process)

    def find(self, folder: Path) -> None:
        """As of every executor: none, since they end with their driver."""
