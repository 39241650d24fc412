"""The packages that read, write and run ONNX graphs: an extra, imported where it is needed alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cdrl_pl.checks import ConfigError

EXTRA = 'pip install "cdrl-pl[onnx]"'


class OnnxError(ConfigError):
    """A graph that is not what it should be, or that nobody should run, with the file and the reason."""


def needed(module: str) -> Any:
    """A module of the extra.

    Raises:
        OnnxError: it is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise OnnxError(f"ONNX needs the package {error.name or module}, which is not installed: {EXTRA}") from None
