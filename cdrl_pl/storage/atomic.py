"""Files that are whole or not there."""

from __future__ import annotations

import csv
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cdrl_pl.checks import ConfigError

Content = TypeVar("Content")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, a quota of it, the most that one file may have


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replaces ``path`` by a file with this content; after a crash at any point the old or the new one is there.

    Raises:
        OSError: it cannot be written; names ``path``. The old file is then untouched.
    """
    with named(path):
        _write(path, content)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Gives what cannot be written the name of its file: a full disk says none, and a temporary file another.

    Raises:
        OSError: what was raised inside, with ``path``.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def disk_full(error: BaseException | None) -> str:
    """What to say where an error, or one that it was raised from, is of a full disk; empty: none is."""
    found: list[OSError] = []
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            found.append(error)
        error = error.__cause__ or error.__context__
    files = [part.filename for part in found if part.filename]
    where = f": {files[0]}" if files else ""
    return f"{found[0].strerror}{where}; make room, and start it again: what was saved before is whole" if found else ""


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


class DamagedFileError(ConfigError):
    """A file that is there and cannot be read as what it should be; names it, and what to do."""


def read_as(path: Path, what: str, parse: Callable[[Path], Content]) -> Content:
    """What ``parse`` makes of a file.

    Args:
        path: of the file.
        what: that it should be, for the error.
        parse: reads it; whatever it raises means that the file is damaged.

    Raises:
        DamagedFileError: naming the file.
    """
    try:
        return parse(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, csv.Error, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        said = " ".join(str(reason).split())[:150]
        raise DamagedFileError(f"{path} is no {what} ({said}); restore it, or leave its run out") from None


def write_json(path: Path, content: Any) -> None:
    """``write_whole`` of JSON; makes the folder.

    Raises:
        ValueError: a number that is not finite, which JSON does not have; names ``path``.
    """
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (text + "\n").encode())
