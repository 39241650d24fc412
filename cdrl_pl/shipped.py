"""What comes with the program: configs, teachers and alignments; in a checkout, or installed. Torch-free."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

BARE = re.compile(r"[A-Za-z]\w*")  # a name without a slash or a suffix; anything else is a path
EXPERIMENTS, TUNING = "experiments", "tuning"  # folders of files that are no configs of runs


@cache
def shipped() -> Path:
    """The folder with ``configs``, ``teachers`` and ``alignments``."""
    package = Path(__file__).resolve().parent
    installed = package / "shipped"
    return installed if installed.is_dir() else package.parent


@cache
def names(experiments: bool = False, tuning: bool = False) -> dict[str, Path]:
    """Every shipped config by its name: that of its file, or, where several have it, with the folder's before it.

    Args:
        experiments: those of experiments, instead of those of runs.
        tuning: those of sweeps, instead of those of runs.
    """
    wanted = EXPERIMENTS if experiments else TUNING if tuning else ""
    found = defaultdict(list)
    for path in sorted((shipped() / "configs").rglob("*.yaml")):
        if wanted == (path.parent.name if path.parent.name in (EXPERIMENTS, TUNING) else ""):
            found[path.stem].append(path)
    long = {f"{path.parent.name}_{name}": path for name, paths in found.items() for path in paths}
    return {**long, **{name: paths[0] for name, paths in found.items() if len(paths) == 1}}


def config_file(name: str, experiments: bool = False, tuning: bool = False) -> str:
    """The file that a command line means: a shipped one by its bare name; a path, and a file that is there, as it is.

    Args:
        name: what was given.
        experiments: whether it is of an experiment.
        tuning: whether it is of a sweep.
    """
    if not BARE.fullmatch(name) or Path(name).is_file():
        return name
    return str(names(experiments, tuning).get(name, name))


def located(path: str) -> str:
    """A path, or what is shipped under it where the current folder has nothing there."""
    relative = not Path(path).is_absolute()
    return str(shipped() / path) if relative and not Path(path).exists() and (shipped() / path).exists() else path
