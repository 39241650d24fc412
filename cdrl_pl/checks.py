"""Checks of a config: the error that they raise, and how it says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MAX_SEED = 2**32 - 1  # NumPy takes no larger one for its global generator, which a run seeds
SEEDS = f"a whole number from 0 to {MAX_SEED}"

Row = tuple[str, bool, str]
"""An option's name, whether its value is allowed, and in words what is allowed."""


class ConfigError(ValueError):
    """A setting that cannot be: names the option, its value and what is allowed."""


def check_options(where: str, config: object, rows: Iterable[Row]) -> None:
    """Refuses the first option whose value is not allowed.

    Args:
        where: what stands before the option's name in the message, such as ``"learner."``.
        config: has each option as an attribute.
        rows: the options to check.

    Raises:
        ConfigError: naming the option, its value and what is allowed.
    """
    for name, ok, allowed in rows:
        if not ok:
            raise ConfigError(f"{where}{name} is {getattr(config, name)!r}; it must be {allowed}")


def whole(value: Any) -> Any:
    """The int of a whole number that is written as a float or a text (1e6, 1000000.0); anything else as it is."""
    if not isinstance(value, float | str):
        return value
    try:
        if isinstance(value, str) and value.strip().lstrip("+-").replace("_", "").isdigit():
            return int(value)
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else value


def is_seed(value: Any) -> bool:
    """Returns whether a run can be seeded with it."""
    return type(value) is int and 0 <= value <= MAX_SEED
