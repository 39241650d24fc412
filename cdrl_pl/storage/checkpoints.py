"""Checkpoints that a run can go on from. Torch-free."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r"env_steps=(\d+)\.ckpt")  # as callbacks.EnvStepsCheckpoint saves it


class Checkpoint(NamedTuple):
    """A checkpoint file and the number of decisions at which it was written.

    Attributes:
        path: of the file.
        env_steps: decisions at which it was written.
    """

    path: Path
    env_steps: int


def saved(folders: Iterable[Path]) -> Iterator[Checkpoint]:
    """The checkpoints in these folders and in their ``checkpoints/``, most decisions first, damaged ones too."""
    found = [
        Checkpoint(path, int(match[1]))
        for folder in folders
        for pattern in ("*.ckpt", "checkpoints/*.ckpt")
        for path in folder.glob(pattern)
        if (match := NAME.fullmatch(path.name))
    ]
    yield from sorted(found, key=lambda checkpoint: (checkpoint.env_steps, checkpoint.path), reverse=True)


def newest(folders: Iterable[Path], damaged: Callable[[Path], None] = lambda path: None) -> Checkpoint | None:
    """The whole checkpoint of most decisions in these folders; None where there is none.

    Args:
        folders: as of ``saved``.
        damaged: called with each that is passed over.
    """
    for checkpoint in saved(folders):
        if is_whole(checkpoint.path):
            return checkpoint
        damaged(checkpoint.path)
    return None


def is_whole(path: Path) -> bool:
    """Returns whether a checkpoint (a zip archive with checksums) is undamaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
