"""Whole numbers in any spelling: where an option is an int, 1e6 and 1000000.0 are a million."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import _typehints

from cdrl_pl.checks import whole


@contextmanager
def whole_numbers() -> Iterator[None]:
    """Lets the parser take a whole number for an int, however it is written.

    The parser has no hook for that, so that its function from values to types is wrapped. An option that may be a float
    as well keeps its floats: Lightning's ``limit_train_batches`` means all by 1.0, and one batch by 1.
    """
    inner = _typehints.adapt_typehints
    float_too = False  # what is looked at may be a float as well

    def adapt(value: Any, kind: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parser's, of the whole number that a value is where one is wanted."""
        nonlocal float_too
        if kind is int and not float_too:
            value = whole(value)
        before, float_too = float_too, get_origin(kind) in (Union, UnionType) and float in get_args(kind)
        try:
            return inner(value, kind, *args, **kwargs)
        finally:
            float_too = before

    _typehints.adapt_typehints = adapt  # type: ignore[assignment]
    try:
        yield
    finally:
        _typehints.adapt_typehints = inner
