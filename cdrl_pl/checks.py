"""Checks of a config: the error that they raise, and how it says what is wrong."""

from __future__ import annotations

from collections.abc import Iterable

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
