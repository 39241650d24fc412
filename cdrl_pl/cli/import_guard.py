"""The imports that a command line allows its configs. Torch-free, and imports nothing.

A config can name any class, and an environment's id a module: both are imported, which runs their code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

CONFIG_FILES = (".yaml", ".yml", ".json")
# A class path (package.module.Class), or an environment's id with the module that registers it (package.module:Id).
IMPORTED = re.compile(r"(?P<package>[A-Za-z_]\w*)((\.[A-Za-z_]\w*)+|(\.\w+)*:.+)")

WRAPPER = re.compile(r"\bwrappers\[\d+\]$")  # where a mapping's key is a class path


class ImportRefusedError(ValueError):
    """A config names what may not be imported; says which, where and what is allowed."""


def check_imports(files: Sequence[Path], allowed: Sequence[str]) -> None:
    """Refuses configs that name anything to import but from the packages ``allowed``; nothing is imported to find out.

    Any value that could be a class path or an id with a module counts, and so does another config file.

    Raises:
        ImportRefusedError: see there; also a file that is not plain YAML.
    """
    for file in files:
        try:
            content = yaml.safe_load(file.read_text())
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise ImportRefusedError(f"{file} is not plain YAML, which --imports needs: {reason}") from None
        for where, value in _strings(content):
            match = IMPORTED.fullmatch(value)
            if value.endswith(CONFIG_FILES):
                raise ImportRefusedError(
                    f"{file}: {where} names another file, {value!r}, which --imports does not follow"
                )
            if match and match["package"] not in allowed:
                raise ImportRefusedError(
                    f"{file}: {where} is {value!r}; --imports allows only what is in {', '.join(allowed)}"
                )


def _strings(content: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a tree of YAML that is a string, with its place for people."""
    if isinstance(content, dict):
        for key, value in content.items():
            if WRAPPER.search(where):  # {module.Class: {keyword: value}}
                yield where, str(key)
            yield from _strings(value, f"{where}.{key}" if where else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _strings(value, f"{where}[{index}]")
    elif isinstance(content, str):
        yield where, content.strip()
