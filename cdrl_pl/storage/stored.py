"""What a config names that is stored in files: teachers, graphs and alignments. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CERTIFICATE = "certificate.json"
GRAPH = ".onnx"  # of files; a policy that ends otherwise is a class path
TEACHERS = ("certificate", "init")  # options of an agent that name folders


@dataclass(frozen=True)
class Stored:
    """A path that a config names.

    Attributes:
        within: the mapping that has it.
        key: under which.
        option: the whole name, for people.
        below: the file that must be in a folder; empty: it is a file itself.
    """

    within: Any
    key: str
    option: str
    below: str = ""

    @property
    def path(self) -> str:
        """As the config has it."""
        return str(self.within[self.key])

    @property
    def file(self) -> Path:
        """Whose content it is."""
        return Path(self.path, self.below)


def is_stored(place: Sequence[str], value: str) -> bool:
    """Whether a text of a config is such a path.

    Args:
        place: keys that lead to it; lists have none.
        value: the text.
    """
    if tuple(place[:2]) == ("model", "agents"):
        return place[-1] in TEACHERS or (place[-1] == "policy" and value.endswith(GRAPH))
    return tuple(place[-2:]) == ("alignment", "file")


def stored(model: Any) -> Iterator[Stored]:
    """Every such path of the ``model`` of a whole config.

    Args:
        model: a mapping, or a parser's namespace.
    """
    for name, agent in dict(model.get("agents") or {}).items():
        for key in (*TEACHERS, "policy"):
            if (value := agent.get(key)) and is_stored(("model", "agents", name, key), value):
                yield Stored(agent, key, f"model.agents.{name}.{key}", CERTIFICATE if key in TEACHERS else "")
    for index, transfer in enumerate(model.get("transfers") or []):
        if (alignment := transfer.get("alignment")) and alignment.get("file"):
            yield Stored(alignment, "file", f"model.transfers[{index}].alignment.file")
