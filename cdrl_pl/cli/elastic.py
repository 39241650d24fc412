"""Runs that torchrun starts again: they go on from the newest whole checkpoint of those that did not come to their end.

torchrun repeats the command as it was, on every node, after a process or a node is lost. A run marks its folder while
it is under way; the mark of one that died or was told to end stays, and says of which launch and command it was. Every
rank reads the same files.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from cdrl_pl.storage.atomic import write_json
from cdrl_pl.storage.checkpoints import Checkpoint, newest

MARK = "torchrun.json"
RUN_ID, RESTARTS = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"
UNNAMED = "none"  # of all launches without --rdzv_id: which of them a mark is of cannot be said


def left_unfinished(root: Path) -> Checkpoint | None:
    """From where a run that was started again goes on; None where it is the first start, or nothing was saved.

    Args:
        root: of the run folders.
    """
    if RUN_ID not in os.environ or (_launch()["id"] == UNNAMED and not int(os.environ.get(RESTARTS, "0"))):
        return None
    return newest(_marked(root))


def mark(folder: Path) -> None:
    """Marks a run's folder, from now on, on the rank that writes; what older launches left is none of this one.

    Args:
        folder: of the run; beside it are those of the starts before.
    """
    if RUN_ID in os.environ:
        if left_unfinished(folder.parent) is None:
            unmark(folder.parent)
        write_json(folder / MARK, _launch())


def unmark(root: Path) -> None:
    """The launch has come to its end: no run goes on from it by itself.

    Args:
        root: of the run folders.
    """
    if RUN_ID in os.environ:
        for folder in _marked(root):
            (folder / MARK).unlink(missing_ok=True)


def _launch() -> dict[str, object]:
    return {"id": os.environ[RUN_ID], "command": sys.argv[1:]}


def _marked(root: Path) -> list[Path]:
    """Folders of earlier starts of this launch."""
    found = []
    for path in sorted(root.glob(f"version_*/{MARK}")):
        with suppress(OSError, ValueError):  # another rank has removed it; no mark
            if json.loads(path.read_text()) == _launch():
                found.append(path.parent)
    return found
