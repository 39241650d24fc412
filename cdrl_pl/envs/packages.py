"""Packages whose environments are known by name: imported, and made known to Gymnasium, where one is asked for.

Torch-free.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple


class Package(NamedTuple):
    """Where environments come from.

    Attributes:
        module: that is imported.
        extra: of this project, which installs it.
        register: function of the module that makes its environments known; None: importing it does.
        kwargs: keyword arguments of gymnasium.make, where the user gives no others.
        litter: empty folder that the first reset leaves in the current one; "": none.
    """

    module: str
    extra: str
    register: str | None = None
    kwargs: Mapping[str, Any] = {}
    litter: str = ""


BY_PREFIX = {
    "LunarLander-": Package("Box2D", "box2d"),
    "MiniGrid-": Package("minigrid", "minigrid"),
    "BabyAI-": Package("minigrid", "minigrid"),
    # the engine stores its own settings where it runs, and reads them there again: here it finds and leaves none
    "Vizdoom": Package(
        "vizdoom.gymnasium_wrapper", "vizdoom", kwargs={"doom_config_path": os.devnull}, litter="_vizdoom"
    ),
    "MinAtar/": Package("minatar.gym", "minatar", "register_envs"),
}
_known: set[str] = set()


def package_of(env_id: str) -> Package:
    """The package that an environment comes from; one without a name where it is none of these."""
    bare = env_id.rpartition(":")[2]
    return next((package for prefix, package in BY_PREFIX.items() if bare.startswith(prefix)), Package("", ""))


def remove_litter(package: Package) -> None:
    """Removes what the package leaves behind, where it is there and empty."""
    if package.litter:
        with suppress(OSError):
            os.rmdir(package.litter)


def make_known(env_id: str) -> str | None:
    """Imports the package of an environment, once; returns the extra that is missing where it cannot be imported."""
    package = package_of(env_id)
    if not package.module or package.module in _known:
        return None
    try:
        module = importlib.import_module(package.module)
    except ImportError:
        return package.extra
    if package.register is not None:
        getattr(module, package.register)()
    _known.add(package.module)
    return None
