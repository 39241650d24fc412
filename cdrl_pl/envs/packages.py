"""Packages whose environments are known by name: imported, and made known to Gymnasium, where one is asked for.

Torch-free.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple


class Package(NamedTuple):
    """Where environments come from.

    Attributes:
        module: that is imported.
        extra: of this project, which installs it.
        register: function of the module that makes its environments known; None: importing it does.
    """

    module: str
    extra: str
    register: str | None = None


BY_PREFIX = {
    "LunarLander-": Package("Box2D", "box2d"),
    "MiniGrid-": Package("minigrid", "minigrid"),
    "BabyAI-": Package("minigrid", "minigrid"),
    "Vizdoom": Package("vizdoom.gymnasium_wrapper", "vizdoom"),
    "MinAtar/": Package("minatar.gym", "minatar", "register_envs"),
}
_known: set[str] = set()


def make_known(env_id: str) -> str | None:
    """Imports the package of an environment, once; returns the extra that is missing where it cannot be imported."""
    package = next((package for prefix, package in BY_PREFIX.items() if env_id.startswith(prefix)), None)
    if package is None or package.module in _known:
        return None
    try:
        module = importlib.import_module(package.module)
    except ImportError:
        return package.extra
    if package.register is not None:
        getattr(module, package.register)()
    _known.add(package.module)
    return None
