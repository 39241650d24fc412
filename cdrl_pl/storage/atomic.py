"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from cdrl_pl.checks import ConfigError


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replaces ``path`` by a file with this content; after a crash at any point the old or the new one is there.

    Raises:
        OSError: it cannot be written; names ``path``. The old file is then untouched.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write(path: Path, content: bytes | memoryview) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def check_below(option: str, folder: str) -> None:
    """Refuses a folder that is not below the one it is meant to be in.

    Raises:
        ConfigError: naming ``option``.
    """
    path = Path(folder)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"{option} is {folder!r}; it must be a folder below the run folder, without ..")


def write_json(path: Path, content: Any) -> None:
    """``write_whole`` of JSON; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
