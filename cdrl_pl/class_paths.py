"""Classes of the user's own, by their class paths."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from cdrl_pl.checks import ConfigError


def is_class_path(name: str) -> bool:
    """Returns whether a name has the form module.Class."""
    return "." in name


def made(option: str, path: str, options: dict[str, Any], *arguments: Any) -> Any:
    """An object of the class that ``path`` names, from ``arguments`` and the keywords ``options``.

    Args:
        option: that has the class path, for the message.
        path: of the class: module.Class, the module as Python finds it: in the current folder, among what is
            installed, on PYTHONPATH.
        options: keywords of the class.
        arguments: that this program gives it.

    Raises:
        ConfigError: there is no such module or class, or it does not take what it is given.
    """
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{option} is {path!r}, which cannot be imported: {error}") from None
    try:
        return kind(*arguments, **options)
    except (TypeError, ValueError) as error:
        given = ", ".join([*map(repr, arguments), *(f"{key}={value!r}" for key, value in options.items())])
        raise ConfigError(f"{option} is {path!r}, which cannot be made of ({given}): {error}") from error


def is_within(module: str, packages: Iterable[str]) -> bool:
    """Returns whether a module is one of these packages, or in one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)
