"""Tensors out of files of strangers."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdrl_pl.importing.archive import ImportedFileError

MAX_FILE = 2**30  # bytes
# Of NumPy's numbers, as older and newer versions name them: each is made of a type and its bytes.
NUMBERS: list[Any] = [
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]


def content_of(path: Path) -> bytes:
    """The bytes of a file of reasonable size.

    Raises:
        ImportedFileError: it cannot be read, or is too large.
    """
    try:
        if (size := path.stat().st_size) > MAX_FILE:
            raise ImportedFileError(f"{path} has {size:,} bytes; at most {MAX_FILE:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise ImportedFileError(f"{path} cannot be read: {error.strerror}") from None


def unpickled(what: str, content: bytes) -> Any:
    """What ``torch.save`` wrote, where it is tensors and plain values, NumPy's numbers among them; nothing is executed.

    Args:
        what: it is, for the message.
        content: of the file.

    Raises:
        ImportedFileError: it holds more than that, or is damaged.
    """
    try:
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        named = re.search(r"(?:GLOBAL|class) ([\w.]+\w)", str(error))
        reason = f": it names {named[1]}" if named else ""
        raise ImportedFileError(f"{what} is more than tensors, or damaged; refused{reason}") from None


def checked_state(what: str, state: Any) -> dict[str, Tensor]:
    """A state dict in fp32, of finite numbers.

    Args:
        what: it is, for the message.
        state: tensors by name.

    Raises:
        ImportedFileError: it is none, or not finite.
    """
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ImportedFileError(f"{what} must hold tensors by name")
    floats = {str(name): tensor.float() for name, tensor in state.items()}
    if wrong := [name for name, tensor in floats.items() if not torch.isfinite(tensor).all()]:
        raise ImportedFileError(f"{what}: {wrong[0]} is not finite")
    return floats


def read_statistics(path: Path, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Mean and variance of observations, [N] each, from an ``.npz`` or JSON file with ``mean`` and ``var``.

    Beside them may be ``epsilon`` (added to the variance; 1e-8 where it is not) and ``clip`` (10 where it is not).

    Args:
        path: of the file.
        size: N.

    Raises:
        ImportedFileError: the file is another, or its numbers are not those of such observations.
    """
    content = content_of(path)
    try:
        if path.suffix == ".json":
            found = {name: np.asarray(value, np.float64) for name, value in json.loads(content).items()}
        else:
            with np.load(BytesIO(content), allow_pickle=False) as file:
                found = {name: np.asarray(file[name], np.float64) for name in file.files}
    except (ValueError, AttributeError, TypeError, OSError, EOFError, KeyError) as error:
        raise ImportedFileError(
            f"{path} must be an .npz or a JSON file with mean and var (a pickle is not read): {error}"
        ) from None
    for name, plain in (("epsilon", 1e-8), ("clip", 10.0)):
        found.setdefault(name, np.asarray(plain))
    if missing := {"mean", "var"} - set(found):
        raise ImportedFileError(f"{path} has no {' and no '.join(sorted(missing))}; it has {', '.join(found)[:200]}")
    if unknown := set(found) - {"mean", "var", "epsilon", "clip"}:
        raise ImportedFileError(f"{path} has {', '.join(sorted(unknown))[:200]}; known are mean, var, epsilon and clip")
    for name, value in found.items():
        wanted = size if name in ("mean", "var") else 1
        if value.size != wanted or not np.isfinite(value).all() or (name != "mean" and (value < 0).any()):
            raise ImportedFileError(
                f"{path}: {name} has {value.size} numbers; it must have {wanted}, finite"
                + ("" if name == "mean" else " and not negative")
            )
    return {name: value.reshape(-1) for name, value in found.items()}
