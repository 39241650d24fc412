"""Trackers beside a run's own logs: on the real packages, read back, where those are installed."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
import small_runs
import yaml
from command_line import Run, call, callback, pole, tiny, write
from wandb_files import records

from cdrl_pl.cli import trackers
from cdrl_pl.storage.fingerprint import fingerprint

run, refused, build = command_line.run, command_line.refused, command_line.build
CERTIFICATED = callback("callbacks.CertificatedTeacher", agent="pole", threshold=0, window=1, episodes=2, trial=0)


def not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_tracker_that_is_not_installed_is_one_line_that_names_the_extra(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    not_there(monkeypatch)
    said = refused("--config", write(tmp_path / "tiny.yaml", tiny()), "--track", name)
    assert said == f'track is {name!r}, which is not installed: pip install "cdrl-pl[{name}]"'


def test_an_unknown_tracker_is_refused_with_those_that_there_are(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("--config", write(tmp_path / "tiny.yaml", tiny()), "--track", "neptune")
    assert "track" in said and all(name in said for name in trackers.TRACKERS)


def test_the_other_commands_take_a_tracked_runs_config(
    build: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_there(monkeypatch)  # they track nothing
    config = write(tmp_path / "tiny.yaml", {**tiny(), "track": "wandb"})
    built = build("test", "--config", config)
    assert not any(isinstance(logger, trackers.Wandb) for logger in built.trainer.loggers)


def test_where_it_is_tracked_is_no_part_of_a_fingerprint() -> None:
    config = tiny()
    assert fingerprint({**config, "track": "wandb"}) == fingerprint({**config, "track": None}) == fingerprint(config)


def test_a_login_is_looked_for_where_wandb_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "wandb login" in trackers.login_problem("wandb")
    (tmp_path / "netrc").write_text("machine elsewhere.org login user password key\n")
    assert "wandb login" in trackers.login_problem("wandb")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert trackers.login_problem("wandb") == ""
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "online")
    assert trackers.login_problem("wandb") != ""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trackers.login_problem("wandb") == ""


def test_a_server_is_asked_and_a_file_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert trackers.login_problem("mlflow") == ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert trackers.login_problem("mlflow") == ""
    assert "does not answer" in trackers.login_problem("mlflow")


# The packages


def columns(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every column of a run's table, as (T, value)."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in small_runs.metrics(folder):
        for name, value in line.items():
            if name != "step" and value:
                found.setdefault(name, []).append((int(line["step"]), float(value)))
    return found


def resolved(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return config


@pytest.mark.slow
def test_mlflow_has_what_the_table_has_and_the_artefacts(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason='needs pip install "cdrl-pl[mlflow]"')
    config = write(tmp_path / "tiny.yaml", tiny(CERTIFICATED, pole=pole()))
    answer = call("fit", "--config", config, "--track", "mlflow", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    folder = tmp_path / "runs" / "version_0"
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("cdrl_pl").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "runs/version_0"
    table = columns(folder)
    assert "return/pole" in table and {*found.data.metrics} == {*table}
    for name in ("return/pole", "env_steps", "entropy/pole"):
        points = [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, name)]
        assert points == [(at, pytest.approx(value)) for at, value in table[name]]
    made_of = fingerprint(resolved(folder))
    assert found.data.params["fingerprint.config"] == made_of.config
    assert found.data.params["fingerprint.versions.torch"] == made_of.versions["torch"]
    kept = Path(found.info.artifact_uri)
    stored = ("config.yaml", "teacher/pole/certificate.json", "teacher/pole/weights.safetensors", "report/report.html")
    for name in stored:
        assert (kept / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((kept / "fingerprint.json").read_text())["code"] == made_of.code


@pytest.mark.slow
def test_a_databases_logger_of_a_config_needs_no_folder(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason='needs pip install "cdrl-pl[mlflow]"')
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    config = tiny(CERTIFICATED, pole=pole())
    config["trainer"]["logger"] = callback("pytorch_lightning.loggers.MLFlowLogger", tracking_uri=uri)
    answer = call("fit", "--config", write(tmp_path / "tiny.yaml", config), cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    client = tracking.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    assert found.data.metrics["env_steps"] == 120
    assert (tmp_path / "runs" / "version_0" / "metrics.csv").is_file()


@pytest.mark.slow
def test_an_offline_run_of_wandb_has_what_the_table_has(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason='needs pip install "cdrl-pl[wandb]"')
    config = write(tmp_path / "tiny.yaml", tiny(CERTIFICATED, pole=pole()))
    answer = call("fit", "--config", config, "--track", "wandb", cwd=tmp_path, WANDB_MODE="offline")
    assert answer.returncode == 0, answer.stderr
    folder = tmp_path / "runs" / "version_0"
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    lines: list[dict[str, Any]] = []
    artefacts, kinds, settings, ended = [], set(), {}, None
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            lines.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
        elif kind == "artifact":
            artefacts.append(record.artifact.name)
            kinds.add(record.artifact.type)
        elif kind in ("config", "run"):
            updates = record.config.update if kind == "config" else record.run.config.update
            settings.update({i.key or ".".join(i.nested_key): i.value_json for i in updates})
        elif kind == "exit":
            ended = record.exit.exit_code
    table = columns(folder)
    for name in ("return/pole", "env_steps", "entropy/pole"):
        found = [(line["trainer/global_step"], line[name]) for line in lines if name in line]
        assert found == [(at, pytest.approx(value)) for at, value in table[name]]
    assert settings["fingerprint.config"] == json.dumps(fingerprint(resolved(folder)).config)
    assert {"run", "teacher", "report"} == kinds
    for end in ("-report-report.html", "-config.yaml", "-fingerprint.json", "-teacher-pole-certificate.json"):
        assert any(name.endswith(end) for name in artefacts), artefacts
    assert ended == 0


@pytest.mark.slow
def test_trackio_has_what_the_table_has_and_the_artefacts(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason='needs pip install "cdrl-pl[trackio]"')
    config = write(tmp_path / "tiny.yaml", tiny(CERTIFICATED, pole=pole()))
    paths = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    answer = call("fit", "--config", config, "--track", "trackio", cwd=tmp_path, **paths)
    assert answer.returncode == 0, answer.stderr
    folder, table = tmp_path / "runs" / "version_0", columns(tmp_path / "runs" / "version_0")
    with sqlite3.connect(tmp_path / "trackio" / "cdrl_pl.db") as base:
        lines = [(step, json.loads(said)) for step, said in base.execute("select step, metrics from metrics")]
        ((run, said),) = base.execute("select run_name, config from configs").fetchall()
        artefacts = {name for (name,) in base.execute("select name from artifacts")}
    assert run == "runs/version_0"
    for name in ("return/pole", "env_steps", "entropy/pole"):
        assert [(at, line[name]) for at, line in lines if name in line] == [
            (at, pytest.approx(value)) for at, value in table[name]
        ]
    assert json.loads(said)["fingerprint.config"] == fingerprint(resolved(folder)).config
    for end in ("-report-report.html", "-config.yaml", "-fingerprint.json", "-teacher-pole-certificate.json"):
        assert any(name.endswith(end) for name in artefacts), artefacts
