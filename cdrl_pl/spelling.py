"""The name that was probably meant, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from cdrl_pl.shipped import EXPERIMENTS, TUNING, names

CONFIGS = Path("configs")  # where this project keeps its own
MOVED = {"own.yaml": "control_own.yaml", "transfer_bowling.yaml": "online_2_early.yaml"}  # to names that are not near


def nearest(wrong: str, known: Sequence[str], cutoff: float = 0.5) -> str:
    """Returns ``"; did you mean X?"``, or an empty text where nothing is near.

    Args:
        wrong: the name that is not known.
        known: the names that are.
        cutoff: least similarity, from 0 to 1, of a name that is suggested.
    """
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_name(wrong: str) -> str:
    """As ``nearest``, for the bare name of a shipped config; with every one of that file's name, where several have it.

    Args:
        wrong: the name that is not known.
    """
    known = names()
    same = [name for name in known if name.endswith(f"_{wrong}")]
    return f"; did you mean {' or '.join(same)}?" if same else nearest(wrong, list(known), cutoff=0.6)


def nearest_config(path: Path) -> str:
    """As ``nearest``, for a config file that does not exist: one of this project's, which have moved since version 0.1.

    Args:
        path: of the file.
    """
    known = [
        file for file in sorted(CONFIGS.rglob("*.yaml")) if not {EXPERIMENTS, TUNING} & {*file.parts} and file != path
    ]
    if not path.suffix and path.parent == Path():  # a bare name of a shipped one
        return nearest_name(path.name)
    forms = {form: file for file in known for form in (f"{file.parent.name}_{file.name}", file.name)}
    name = MOVED.get(path.name, path.name)
    near = difflib.get_close_matches(name, forms, n=1, cutoff=0.7)
    found = [file for file in known if file.name == name] or [forms[form] for form in near]
    return f"; did you mean {' or '.join(map(str, found))}?" if found else ""
