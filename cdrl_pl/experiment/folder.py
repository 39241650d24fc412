"""One run's folder: attempts (one per start, none ever overwritten), checkpoints, fingerprint, scores."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdrl_pl.storage.atomic import read_as, write_json
from cdrl_pl.storage.checkpoints import Checkpoint, newest
from cdrl_pl.storage.fingerprint import Fingerprint

SCORES, FINGERPRINT, LOG, LOCK = "scores.json", "fingerprint.json", "log.txt", ".lock"
EXPERIMENT = "experiment.yaml"
ENV = {  # what a report says of the environment: option -> types
    "frame_skip": (int, list, type(None)), "repeat_action_probability": (int, float, type(None)),
    "max_episode_steps": (int, type(None)),
}  # fmt: skip
EVALUATION = "evaluation"  # the folder of the evaluation, below the run's


@dataclass(frozen=True)
class RunFolder:
    """``FOLDER/<arm>/seed-<n>/``, with one ``version_N`` below it per attempt.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def attempts(self) -> list[Path]:
        """Every start of the run, first to last; a folder with a ``metrics.csv`` of its own is a run of one attempt."""
        if (self.path / "metrics.csv").is_file():
            return [self.path]
        numbered = [
            (int(m[1]), p) for p in self.path.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", p.name))
        ]
        return [path for _, path in sorted(numbered)]

    def newest_checkpoint(self) -> Checkpoint | None:
        """The whole checkpoint of most decisions over all attempts; damaged ones are passed over."""
        return newest(self.attempts)

    def scores(self) -> dict[str, Any] | None:
        """The scores of the final policy; None before they are there.

        Raises:
            DamagedFileError: the file is none of scores.
        """
        path = self.path / SCORES
        return read_as(path, "file of scores", _scores) if path.exists() else None

    def fingerprint(self) -> Fingerprint | None:
        """What the run was made of; None where it was not started by an experiment.

        Raises:
            DamagedFileError: the file is no fingerprint.
        """
        path = self.path / FINGERPRINT
        return read_as(path, "fingerprint", _fingerprint) if path.exists() else None

    def sign(self, fingerprint: Fingerprint) -> None:
        """Writes the fingerprint, before the first attempt."""
        write_json(self.path / FINGERPRINT, asdict(fingerprint))

    def latest(self) -> dict[str, str]:
        """The last log line of the running attempt; empty before the first."""
        attempts = self.attempts
        return last_line(attempts[-1] / "metrics.csv") if attempts else {}


def _scores(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=_refuse_constant)
    for record in content["agents"].values():
        env = record["env"]
        if not isinstance(env["id"], str) or not all(isinstance(env.get(n), kinds) for n, kinds in ENV.items()):
            raise TypeError("the environment is not readable")
        for score in record["evaluation"].values():
            numbers = score["mean"], score["episodes"], score.get("noop_max", 0)
            if not all(isinstance(value, int | float) for value in numbers):
                raise TypeError("a mean and a number of episodes are needed")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _fingerprint(path: Path) -> Fingerprint:
    content = json.loads(path.read_text())
    if not isinstance(content["versions"], dict):
        raise TypeError("versions are needed")
    return Fingerprint(**content)


def last_line(path: Path) -> dict[str, str]:
    """The last whole line of a CSV file, by its head; empty where there is none."""
    try:
        with path.open("rb") as file:
            head = file.readline().decode()
            file.seek(max(file.tell(), os.path.getsize(path) - 16_384))
            lines = file.read().decode().split("\n")[:-1]
    except OSError:
        return {}
    names, values = next(csv.reader([head]), []), next(csv.reader(lines[-1:]), [])
    return dict(zip(names, values, strict=True)) if values and len(values) == len(names) else {}


def lock(path: Path) -> int | None:
    """An open file descriptor that holds the lock file, also in processes that inherit it; None where another holds it.

    The lock ends with the last process that has the descriptor, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def patient_lock(path: Path, seconds: float) -> int | None:
    """As ``lock``, but where another holds it, tries again for so many seconds: an earlier process may be saving."""
    patience = time.monotonic() + seconds
    while (held := lock(path)) is None and time.monotonic() < patience:
        time.sleep(0.2)
    return held
