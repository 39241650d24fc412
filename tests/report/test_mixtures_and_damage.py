"""Runs that are no one run, tasks that are no one task, and files that are damaged: one sentence each."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import GAME, make_run

from cdrl_pl.cli import report as command


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as ended:
        command.main([*map(str, words)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and "Traceback" not in said
    return said.splitlines()[0].removeprefix("error: ")


def plain(path: Path, **config: Any) -> Path:
    """A run that no experiment started, in one ``version_0``."""
    made = make_run(path)
    (made / "fingerprint.json").unlink()
    change(made / "version_0", **config)
    return made


def change(attempt: Path, **config: Any) -> None:
    path = attempt / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **config}))


@pytest.mark.parametrize("config", [{"seed_everything": 2}, {}, {"seed_everything": 2, "ckpt_path": "x"}])
def test_two_runs_in_one_folder_are_not_two_starts_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any]
) -> None:
    run = plain(tmp_path / "runs")
    shutil.copytree(run / "version_0", run / "version_1")
    change(run / "version_1", **config)
    said = refused(capsys, run)
    assert "holds several runs (version_0 and version_1 among them)" in said and "one=" in said


def test_a_start_that_goes_on_from_the_one_before_is_the_same_run(tmp_path: Path) -> None:
    run = plain(tmp_path / "runs")
    shutil.copytree(run / "version_0", run / "version_1")
    change(run / "version_1", ckpt_path="somewhere")
    assert command.main([str(run), "--out", str(tmp_path / "report")]) == 0


@pytest.mark.parametrize("option", ["frame_skip", "max_episode_steps", "actions", "kwargs"])
def test_other_options_of_one_game_are_another_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    one, other = plain(tmp_path / "one"), plain(tmp_path / "other")
    value = {"frame_skip": 2, "max_episode_steps": 7, "actions": [1, 0], "kwargs": {"a": 1}}[option]
    change(other / "version_0", model={"agents": {"b": {"env": {**GAME, option: value}}}, "transfers": []})
    said = refused(capsys, f"x={one}", f"y={other}")
    assert f"env.{option} {value!r}" in said and "different tasks are not compared" in said


def test_random_starts_of_an_evaluation_are_protocol_and_no_other_task(tmp_path: Path) -> None:
    one, other = plain(tmp_path / "one"), plain(tmp_path / "other")
    change(other / "version_0", model={"agents": {"b": {"env": {**GAME, "noop_max": 30}}}, "transfers": []})
    assert command.main([f"x={one}", f"y={other}", "--out", str(tmp_path / "report")]) == 0


def test_the_score_is_that_of_the_agent_that_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificated teacher that was scored beside it, and is named first, is not measured."""
    run = make_run(tmp_path / "run", score=19.0)
    path = run / "scores.json"
    content = json.loads(path.read_text())
    teacher = json.loads(json.dumps(content["agents"]["b"]).replace("19.0", "500.0").replace("20.0", "500.0"))
    path.write_text(json.dumps({**content, "agents": {"a_teacher": teacher, **content["agents"]}}))
    assert command.main([str(run), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "19.00" in page and "500" not in page


DAMAGE = {
    "empty": b"",
    "half": None,
    "binary": bytes(range(128, 256)) * 4,
    "a list": b"[1, 2]\n",
    "a word": b"nothing\n",
    "null": b"null\n",
}


ACTIONS = "version_0/action_distributions.jsonl"
FILES = (ACTIONS, "version_0/metrics.csv", "scores.json", "version_0/config.yaml", "fingerprint.json")
READABLE = {  # a log that is being written, and configs that say less
    ("version_0/metrics.csv", "half"), ("version_0/config.yaml", "half"), ("version_0/config.yaml", "empty"),
    ("version_0/config.yaml", "null"), (ACTIONS, "empty"), (ACTIONS, "half"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), [(n, d) for n in FILES for d in DAMAGE if (n, d) not in READABLE])
def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str) -> None:
    run = make_run(tmp_path / "run", score=19.0)
    (run / ACTIONS).write_text('{"env_steps": 50, "b": {"NOOP": 0.5, "FIRE": 0.5}}\n')
    path, content = run / name, DAMAGE[damage]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2].rstrip(b"}\n ") if content is None else content)
    assert os.path.basename(name) in refused(capsys, run)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (ACTIONS, '{"NOOP": 0.5, "FIRE": 0.5}', "0.5"),
        (ACTIONS, "50", '"50"'),
        ("version_0/metrics.csv", "\n50,", "\ninf,"),
        ("version_0/config.yaml", "T1: 30", "T1: soon"),
        ("version_0/config.yaml", "id: ALE/Bowling-v5", "id: 5"),
        ("scores.json", '"greedy": {', '"other": {'),
        ("scores.json", '"id": "ALE/Bowling-v5"', '"id": null'),
        ("scores.json", '"repeat_action_probability": 0.25', '"repeat_action_probability": "x"'),
        ("scores.json", '"noop_max": 30', '"noop_max": {}'),
    ],
)
def test_a_file_that_says_something_else_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str
) -> None:
    """It is whole, and can be read; but not as what it should be."""
    run = make_run(tmp_path / "run", score=19.0, taught=True)
    (run / ACTIONS).write_text('{"env_steps": 50, "b": {"NOOP": 0.5, "FIRE": 0.5}}\n')
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new))
    assert os.path.basename(name) in refused(capsys, run)


def test_nan_is_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", score=19.0)
    (run / "scores.json").write_text((run / "scores.json").read_text().replace("19.0", "NaN"))
    assert "scores.json" in refused(capsys, run) and "NaN" in (run / "scores.json").read_text()


def test_a_folder_in_a_files_place_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    (run / "scores.json").mkdir()
    assert "scores.json is no file of scores (Is a directory)" in refused(capsys, run)
