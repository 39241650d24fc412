"""What tests of the command line share: a small run that has ended, and what it left."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import matplotlib
import pytest
from command_line import call, callback, edge, pole, tiny, write

CHECKPOINT = callback("callbacks.EnvStepsCheckpoint", every=40)
BOTH = {"alpha": pole(), "beta": pole()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was started in ``cwd``, with its own ``home`` and ``tmp``, writing below ``root``."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("cwd", "home", "tmp"):
        (folder / name).mkdir()
    teacher = callback("callbacks.CertificatedTeacher", agent="alpha", threshold=0, window=1, episodes=2)
    switches = [callback("callbacks.AlignmentSchedule"), callback("callbacks.DistillationSchedule")]
    config = tiny(*switches, CHECKPOINT, teacher, callback("callbacks.Progress"), transfers=[edge()], **BOTH)
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    answer = call(
        "fit", "--config", write(folder / "tiny.yaml", config), "--trainer.default_root_dir", folder / "root",
        cwd=folder / "cwd", **places,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    shutil.copytree(folder / "root", folder / "copy")
    return folder


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
