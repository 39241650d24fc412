"""Files that can be trusted: tensors in safetensors beside a JSON record that carries their SHA-256.

Nothing in either file is executed or names anything to import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cdrl_pl.checks import ConfigError

MAX_BYTES = 2**30
Record = TypeVar("Record")


class CertificateError(ConfigError):
    """Files that are not something stored that can be trusted, with the file and the reason."""


def read(path: Path, expected: str) -> bytes:
    """The content of a file of reasonable size; ``expected`` tells people where it should be.

    Raises:
        CertificateError: it cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CertificateError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}; {expected}") from None


def sha256(content: bytes) -> str:
    """The checksum that a record carries."""
    return hashlib.sha256(content).hexdigest()


def read_verified(path: Path, checksum: str, expected: str) -> bytes:
    """The content of a file whose checksum is known.

    Args:
        path: of the file.
        checksum: its SHA-256, in hexadecimal digits.
        expected: as in ``read``.

    Raises:
        CertificateError: as ``read``, or another checksum.
    """
    content = read(path, expected)
    if (found := sha256(content)) != checksum:
        raise CertificateError(f"{path} has SHA-256 {found}, the certificate says {checksum}: changed or damaged")
    return content


def check_tensors(path: Path, expected: Mapping[str, Tensor], what: str) -> None:
    """Compares names, shapes and types of the tensors in a file before anything of their size is allocated.

    Args:
        path: of the file.
        expected: tensors whose names and shapes the file must have.
        what: what the file should hold, for the message.

    Raises:
        CertificateError: it is no safetensors file, or holds other tensors than ``expected`` (float32 all).
    """
    try:
        with safe_open(path, "pt") as file:
            found = {k: (tuple(file.get_slice(k).get_shape()), file.get_slice(k).get_dtype()) for k in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise CertificateError(f"{path} is not a safetensors file: {error}") from None
    wanted = {k: (tuple(v.shape), "F32") for k, v in expected.items()}
    if found != wanted:
        wrong = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
        raise CertificateError(f"{path} does not hold {what}; different: {', '.join(wrong[:5])}")


def record(kind: type[Record], content: Any) -> Record:
    """A dataclass from what JSON has of it; fields, and their types, exactly as declared.

    Raises:
        TypeError: an unknown or missing field, or a value of another type.
    """
    if not isinstance(content, dict):
        raise TypeError(f"{kind.__name__} must be an object, not {type(content).__name__}")
    unknown = set(content) - {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    values = {k: _as_tuples(v) for k, v in content.items()}
    for name, hint in get_type_hints(kind).items():
        inner = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        if inner is not None and isinstance(values.get(name), dict):
            values[name] = record(inner, values[name])  # type: ignore[arg-type]
        if name in values and not _is(values[name], hint):
            raise TypeError(f"{kind.__name__}.{name} is {str(values[name])[:80]!r}, which is not {hint}")
    return kind(**values)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _is(value: Any, hint: Any) -> bool:
    """Returns whether a JSON value (lists as tuples) is of the type that a record's field declares."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        kinds = [inner[0]] * len(value) if isinstance(value, tuple) and inner[-1] is Ellipsis else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool)))
