"""Learning for real: CartPole from its config, and a student that only distils from the teacher so made."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command_line import CONFIGS, call, callback, write

pytestmark = pytest.mark.slow


def metrics(root: Path) -> list[dict[str, str]]:
    (path,) = root.rglob("metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of configs/teachers/cartpole.yaml: about a minute on two cores, repeatable."""
    folder = tmp_path_factory.mktemp("learned")
    options = ["--seed=1", "--data.pool.deterministic=true", "--trainer.default_root_dir=root"]
    answer = call("fit", "--config", CONFIGS / "teachers/cartpole.yaml", *options, cwd=folder, timeout=280)
    assert answer.returncode == 0, answer.stderr
    return folder / "root"


def test_cartpole_learns(learned: Path) -> None:
    last = metrics(learned)[-1]
    assert float(last["episodes/cartpole"]) >= 100 and float(last["return/cartpole"]) >= 400


def test_what_was_learned_is_certificated(learned: Path) -> None:
    (path,) = learned.rglob("certificate.json")
    for score in json.loads(path.read_text())["evaluation"].values():
        assert score["episodes"] == 100 and score["mean"] >= 400


def test_a_student_without_rewards_learns_from_the_teacher(learned: Path, tmp_path: Path) -> None:
    (certificate,) = learned.rglob("certificate.json")
    config = {
        "seed_everything": 2,
        "model": {
            "T_max": 40_000,
            "window": 20,
            "log_every": 1000,
            "agents": {
                "expert": {"certificate": str(certificate.parent)},
                "student": {
                    "env": {"id": "CartPole-v1"},
                    "network": {"trunk": "mlp", "depth": 2, "hidden": 64, "lstm": 0},
                    "learner": {"lr": 1e-3, "reinforce": False},
                },
            },
            "transfers": [
                {"teacher": "expert", "student": "student", "T2": 0, "stop": "never", "layer": "policy"}
                | {"alignment": {"kind": "identity"}}
            ],
        },
        "data": {"pool": {"workers": 2, "copies": 8, "steps": 10, "deterministic": True}},
        "trainer": {"accelerator": "cpu", "callbacks": [callback("callbacks.DistillationSchedule")]},
    }
    answer = call("fit", "--config", write(tmp_path / "student.yaml", config), cwd=tmp_path, timeout=280)
    assert answer.returncode == 0, answer.stderr
    lines = metrics(tmp_path)
    assert float(lines[0]["return/student"]) < 100 and float(lines[-1]["return/student"]) >= 400
