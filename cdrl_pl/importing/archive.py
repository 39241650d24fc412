"""Archives of strangers: members are read into memory, within bounds, and nothing is unpacked or executed."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from cdrl_pl.checks import ConfigError

MAX_MEMBERS, MAX_BYTES, MAX_RATIO = 100, 2**30, 200


class ImportedFileError(ConfigError):
    """A file that is not what it should be, or that nobody should trust, with the file and the reason."""


class Archive:
    """A zip file whose members are looked at before any of them is read.

    Args:
        path: of the file.

    Raises:
        ImportedFileError: no zip file, or one whose members would escape, are links, or grow beyond measure.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ImportedFileError(f"{path} is no zip file that can be read: {reason}") from None
        members = self._file.infolist()
        if len(members) > MAX_MEMBERS:
            raise ImportedFileError(f"{path} has {len(members)} members; at most {MAX_MEMBERS} are read")
        for member in members:
            self._check(member)
        if (total := sum(member.file_size for member in members)) > MAX_BYTES:
            raise ImportedFileError(f"{path} holds {total:,} bytes; at most {MAX_BYTES:,} are read")
        self.names = [member.filename for member in members]

    def _check(self, member: zipfile.ZipInfo) -> None:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in member.filename:
            raise ImportedFileError(
                f"{self._path} has the member {member.filename!r}, which leaves its folder; refused"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ImportedFileError(f"{self._path} has the member {member.filename!r}, which is a link; refused")
        if member.file_size > MAX_RATIO * max(member.compress_size, 1024):
            raise ImportedFileError(
                f"{self._path} has the member {member.filename!r}, which grows from {member.compress_size:,} to "
                f"{member.file_size:,} bytes; refused"
            )

    def read(self, name: str, most: int) -> bytes:
        """The content of a member.

        Args:
            name: of the member.
            most: bytes that it may have.

        Raises:
            ImportedFileError: there is none, or it is larger, or damaged.
        """
        if self.names.count(name) != 1:
            raise ImportedFileError(f"{self._path} must have one member {name!r}; it has {', '.join(self.names)[:300]}")
        try:
            with self._file.open(name) as member:
                content = member.read(most + 1)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise ImportedFileError(f"{self._path}: the member {name!r} cannot be read: {error}") from None
        if len(content) > most:
            raise ImportedFileError(f"{self._path}: the member {name!r} has more than {most:,} bytes; refused")
        return content
