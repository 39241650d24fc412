"""Fingerprints, and that results of different code, configs or versions are never mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import experiments
import pytest
from experiments import Start, faulty, run_log

from cdrl_pl.experiment import driver
from cdrl_pl.storage import fingerprint

refused, start = experiments.refused, experiments.start


# Results of different code, configs or versions are never mixed


def test_another_config_is_refused(start: Start, refused: Callable[..., str]) -> None:
    start()
    text = refused(arms={"one": None, "two": {"overrides": ["--lr=3"]}})
    assert "out/two/seed-1 holds a run that differs from what would be run now in: config (2 such of 4 runs)" in text
    assert "--folder" in text and "--set-aside" in text


def test_another_budget_is_another_config(start: Start, refused: Callable[..., str]) -> None:
    start()
    assert "in: config (4 such of 4 runs)" in refused(T_max=50)


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_other_code_is_refused(
    finished: bool, start: Start, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(**({} if finished else faulty("die")))
    monkeypatch.setattr(fingerprint, "code_hash", lambda: "other")
    assert "in: code" in refused(**({} if finished else faulty("die")))


def test_other_versions_are_refused(start: Start, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    now = fingerprint.versions()
    monkeypatch.setattr(fingerprint, "versions", lambda: {**now, "numpy": "0.1"})
    assert f"in: numpy {now['numpy']} / 0.1" in refused()


def test_a_run_without_a_fingerprint_is_refused(start: Start, refused: Callable[..., str]) -> None:
    start()
    Path("out/one/seed-2/fingerprint.json").unlink()
    assert "fingerprint.json, which is missing" in refused()


def test_code_that_changes_meanwhile_ends_the_experiment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = iter(["before"] * 3)
    for module in (fingerprint, driver):
        monkeypatch.setattr(module, "code_hash", lambda: next(hashes, "after"))
    assert start() == 1
    assert run_log() == ["fit one/seed-1"]  # what it learned is not scored by other code


@pytest.mark.slow
def test_runs_that_differ_can_be_set_aside_and_nothing_is_deleted(start: Start) -> None:
    start()
    run_log()
    before = Path("out/two/seed-1/scores.json").read_bytes()
    for number in (0, 1):
        changed = {"one": None, "two": {"overrides": [f"--lr={number + 3}"]}}
        assert start("--set-aside", arms=changed) == 0
        assert run_log() == [f"{what} two/seed-{seed}" for seed in (1, 2) for what in ("fit", "test")]
        assert Path(f"out/set_aside/two-seed-1-{number}/scores.json").is_file()
    assert Path("out/set_aside/two-seed-1-0/scores.json").read_bytes() == before


@pytest.mark.slow
def test_another_folder_starts_anew(start: Start) -> None:
    start()
    run_log()
    assert start("--folder=elsewhere", T_max=50) == 0
    assert len(run_log()) == 8 and Path("elsewhere/two/seed-2/scores.json").is_file()


# Fingerprints


def test_the_code_hash_sees_every_file_that_a_run_may_import() -> None:
    names = {name for name, _ in fingerprint.sources()}
    assert {"cdrl_pl/training/collaboration.py", "cdrl_pl/rollouts/worker.py", "callbacks/transfers.py"} <= names
    assert not any(
        name.startswith(("cdrl_pl/report/", "cdrl_pl/experiment/", "cdrl_pl/cli/report", "cdrl_pl/cli/experiment"))
        for name in names
    )


def test_the_code_hash_changes_with_a_byte_and_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    hashes = set()
    for name, text in (("a", "x = 1\n"), ("a", "x = 2\n"), ("b", "x = 2\n")):
        path.write_text(text)
        monkeypatch.setattr(fingerprint, "sources", lambda name=name: [(name, path)])
        hashes.add(fingerprint.code_hash())
    assert len(hashes) == 3


def test_the_config_hash_ignores_seed_and_folder_alone() -> None:
    config = {"seed_everything": 1, "trainer": {"default_root_dir": "a", "precision": "32"}, "model": {"agents": {}}}
    other = {"seed_everything": 2, "trainer": {"default_root_dir": "b", "precision": "32"}, "model": {"agents": {}}}
    assert fingerprint.config_hash(config) == fingerprint.config_hash(other)
    other["trainer"]["precision"] = "16"  # type: ignore[index]
    assert fingerprint.config_hash(config) != fingerprint.config_hash(other)


def test_a_teacher_counts_by_its_content(tmp_path: Path) -> None:
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "certificate.json").write_text(text)
    a, b, c = (
        fingerprint.config_hash({"model": {"agents": {"expert": {"certificate": str(tmp_path / name)}}}})
        for name in "abc"
    )
    assert a == b != c
