"""Starts a run's command where it may be started twice: alone in its folder, and from the newest whole checkpoint.

``python -m cdrl_pl.executors.again FOLDER -- COMMAND ...``: what a cluster runs, and runs again after a lost node.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cdrl_pl.storage.checkpoints import newest

LOCK = ".process.lock"  # of the process itself; its driver, perhaps on another machine, has the folder's own
PATIENCE = 120.0  # seconds that an earlier process of the run may take to end
CKPT_PATH = "--ckpt_path="


def command_again(folder: Path, command: Sequence[str]) -> list[str]:
    """The command, a training's from the newest whole checkpoint of all attempts in the run's folder.

    Args:
        folder: of the run.
        command: as it was first given.
    """
    if "fit" not in command:
        return list(command)
    found = newest(sorted(folder.glob("version_*")))
    words = [word for word in command if not word.startswith(CKPT_PATH)]
    return [*words, f"{CKPT_PATH}{found.path}"] if found else words


def main(arguments: Sequence[str]) -> None:
    """Becomes the command.

    Raises:
        SystemExit: an earlier process of the run does not end.
    """
    folder, command = Path(arguments[0]), arguments[2:]
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > until:
                raise SystemExit(f"error: another process still works in {folder}") from None
            time.sleep(0.5)
    os.set_inheritable(descriptor, True)  # the lock ends with the last process that has it
    words = command_again(folder, command)
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(sys.argv[1:])
