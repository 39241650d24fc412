"""Fingerprints: resolved config, source code and versions, which decide a result besides its seed. Torch-free.

Two runs belong to one arm only where all three agree.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cdrl_pl.storage.stored import stored

PACKAGES = ("cdrl_pl", "callbacks")
# Files and folders that only read or start runs: no training process imports them.
NOT_PART_OF_A_RUN = (
    "cdrl_pl/executors/", "cdrl_pl/experiment/", "cdrl_pl/importing/", "cdrl_pl/tuning/", "cdrl_pl/report/",
    "cdrl_pl/cli/checkup.py", "cdrl_pl/cli/doctor.py", "cdrl_pl/cli/experiment.py", "cdrl_pl/cli/exporting.py",
    "cdrl_pl/cli/importing.py", "cdrl_pl/cli/report.py", "cdrl_pl/cli/tune.py", "cdrl_pl/onnx/export.py",
    "cdrl_pl/training/stored_agent.py",
)  # fmt: skip


@dataclass(frozen=True)
class Fingerprint:
    """What two runs must have in common to belong to one arm.

    Attributes:
        config: SHA-256 of the resolved config without seed and paths, in hexadecimal digits.
        code: SHA-256 of the source code, in hexadecimal digits.
        versions: of the packages, by name.
    """

    config: str
    code: str
    versions: dict[str, str]

    def differences(self, other: Fingerprint) -> list[str]:
        """What differs, for people: ``code``, ``config``, or a package with both versions. Empty where equal."""
        found = [name for name in ("config", "code") if getattr(self, name) != getattr(other, name)]
        for name in sorted({*self.versions, *other.versions}):
            mine, theirs = self.versions.get(name), other.versions.get(name)
            if mine != theirs:
                found.append(f"{name} {mine} / {theirs}")
        return found


def versions() -> dict[str, str]:
    """Versions of everything that decides a result."""
    names = ("torch", "pytorch-lightning", "gymnasium", "ale-py", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def sources() -> Iterator[tuple[str, Path]]:
    """Every source file that a training run may import, by its path within the packages, in a fixed order."""
    root = Path(__file__).parents[2]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not name.startswith(NOT_PART_OF_A_RUN):
                yield name, path


def code_hash() -> str:
    """SHA-256 over the names and contents of ``sources``."""
    digest = hashlib.sha256()
    for name, path in sources():
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def config_hash(config: dict[str, Any]) -> str:
    """SHA-256 of a resolved config (of ``fit --print_config``, or a run's ``config.yaml``).

    Seeds, the folder of the run, the checkpoint it resumes from and its tracker are left out; a teacher counts by the
    content of its certificate, a stored alignment or a graph by that of its file, wherever they lie.
    """
    config = deepcopy(config)
    for key in ("seed_everything", "ckpt_path", "track"):
        config.pop(key, None)
    config.get("trainer", {}).pop("default_root_dir", None)
    (config.get("data") or {}).pop("seed", None)
    for named in stored(config.get("model", {})):
        named.within[named.key] = content_hash(named.file) or named.path
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def stored_files(config: dict[str, Any]) -> list[Path]:
    """The certificates, alignments and graphs that a resolved config names; the first have the SHA-256 of weights."""
    return [named.file for named in stored(config.get("model", {}))]


def content_hash(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def fingerprint(config: dict[str, Any]) -> Fingerprint:
    """Of a run of this resolved config by the code and on the versions that are here now."""
    return Fingerprint(config_hash(config), code_hash(), versions())
