"""Arms by seeds: what an experiment file may say, what is run, and what survives interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import command_line
import pytest
import yaml
from command_line import CONFIGS, REPOSITORY, Run

from cdrl_pl import fingerprint
from cdrl_pl.checkpoints import is_whole
from cdrl_pl.experiment import command, driver
from cdrl_pl.experiment.driver import check_fair
from cdrl_pl.experiment.folder import RunFolder, last_line, lock
from cdrl_pl.experiment.plan import ExperimentError, read_experiment

run, build = command_line.run, command_line.build
FAKE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_program.py")))
SHIPPED = sorted((CONFIGS / "experiments").glob("*.yaml"))
ORDER = ["one/seed-1", "two/seed-1", "one/seed-2", "two/seed-2"]
Start = Callable[..., int]


def content(**changes: Any) -> dict[str, Any]:
    """Two arms, two seeds, 40 decisions."""
    base = {
        "name": "A test", "folder": "out", "agent": "pole", "baseline": "one", "seeds": [1, 2], "T_max": 40,
        "config": "tiny.yaml", "arms": {"one": None, "two": {"overrides": ["--lr=2"]}},
    }  # fmt: skip
    return {**base, **changes}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs an experiment of the fake program in a temporary folder; gives its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "POLL", 0.01)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "tiny.yaml").touch()

    def go(*options: str, **changes: Any) -> int:
        write(**changes)
        return command.main(["experiment.yaml", *options], FAKE)

    return go


def write(**changes: Any) -> Path:
    path = Path("experiment.yaml")
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


def faulty(what: str, run: str = "one/seed-1") -> dict[str, Any]:
    return {"overrides": [f"--fault={what}@{run}"]}


def journal() -> list[str]:
    path = Path("journal")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


# What is run


def test_every_arm_has_every_seed_seed_by_seed(start: Start) -> None:
    assert start() == 0
    assert journal() == [f"{what} {run}" for run in ORDER for what in ("fit", "test")]
    for arm, lr in (("one", 1), ("two", 2)):
        for seed in (1, 2):
            scores = RunFolder(Path("out", arm, f"seed-{seed}")).scores()
            assert scores is not None
            sampled = scores["agents"]["pole"]["evaluation"]["sampled"]
            assert (sampled["mean"], sampled["episodes"]) == (10 * lr + seed, 100)


def test_what_is_done_is_not_run_again(start: Start) -> None:
    start()
    journal()
    assert start() == 0 and journal() == []


def test_only_what_is_missing_is_run(start: Start) -> None:
    start(seeds=[2])
    journal()
    assert start(seeds=[2, 3]) == 0
    assert journal() == [f"{what} {arm}/seed-3" for arm in ("one", "two") for what in ("fit", "test")]


def test_two_at_once_run_at_once(start: Start) -> None:
    """Each of the two waits for the other."""
    os.mkfifo("fifo")
    meeting = {arm: faulty("meet", f"{arm}/seed-1") for arm in ("one", "two")}
    assert start("--jobs=2", arms=meeting, seeds=[1]) == 0


def test_a_run_is_told_what_the_experiment_decides(start: Start) -> None:
    start(seeds=[5], episodes=7, noop_max=3, arms={"one": None})
    fit, test = [line for line in Path("out/one/seed-5/log.txt").read_text().splitlines() if line.startswith("$ ")]
    for option in ("--config tiny.yaml", "--seed=5", "--T_max=40", "--trainer.default_root_dir=out/one/seed-5"):
        assert option in fit
    for option in ("--episodes=7", "--data.noop_max=3", "--data.seed=1000008", "--data.evaluation_agents=[pole]"):
        assert option in test
    assert test.endswith("--ckpt_path=out/one/seed-5/version_0/checkpoints/env_steps=40.ckpt")  # the last, not the best


# Failures and interruptions


@pytest.mark.parametrize(("what", "says"), [("die", "training: ended by SIGKILL"), ("refuse", "error: this cannot be")])
def test_a_run_that_fails_is_named_and_the_others_go_on(
    what: str, says: str, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(**faulty(what)) == 1
    assert journal() == ["fit one/seed-1", *(f"{what} {run}" for run in ORDER[1:] for what in ("fit", "test"))]
    said = capfd.readouterr().err
    assert "3 of 4 runs done" in said and "failed: one/seed-1" in said and says in said


def test_a_killed_run_goes_on_from_its_newest_checkpoint(start: Start) -> None:
    start(**faulty("die"))
    journal()
    assert start(**faulty("die")) == 0
    assert journal() == ["fit one/seed-1 from 10.ckpt", "test one/seed-1"]
    assert len(RunFolder(Path("out/one/seed-1")).attempts) == 2


@pytest.mark.parametrize("kept", [0, 1, 50, -1])
def test_fault_18_a_damaged_checkpoint_is_passed_over(kept: int, start: Start) -> None:
    start(arms={"one": None}, seeds=[1], T_max=20)
    checkpoints = Path("out/one/seed-1/version_0/checkpoints")
    newest = checkpoints / "env_steps=20.ckpt"
    newest.write_bytes(newest.read_bytes()[:kept])
    assert RunFolder(Path("out/one/seed-1")).newest_checkpoint() == (checkpoints / "env_steps=10.ckpt", 10)


def test_a_flipped_bit_in_a_checkpoint_is_seen(start: Start) -> None:
    start(arms={"one": None}, seeds=[1], T_max=20)
    newest = Path("out/one/seed-1/version_0/checkpoints/env_steps=20.ckpt")
    assert is_whole(newest)
    damaged = bytearray(newest.read_bytes())
    damaged[60] ^= 1
    newest.write_bytes(damaged)
    assert not is_whole(newest)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_an_experiment_that_is_ended_ends_its_run_which_saves_and_goes_on(
    number: int, code: int, start: Start, tmp_path: Path
) -> None:
    os.mkfifo("fifo")
    write(**faulty("wait"))
    program = f"""
        from cdrl_pl.experiment.command import main
        raise SystemExit(main(["experiment.yaml"], {FAKE!r}))
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment)
    with open("fifo") as fifo:
        assert fifo.readline() == "there\n"
        process.send_signal(number)
        assert process.wait(30) == code
        assert fifo.read() == ""  # the run's process is gone too
    assert RunFolder(Path("out/one/seed-1")).newest_checkpoint() is not None
    journal()
    assert start(**faulty("wait")) == 0
    assert journal()[:2] == ["fit one/seed-1 from 20.ckpt", "test one/seed-1"]


def test_a_run_that_ends_before_its_budget_is_no_result(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "check_fair", lambda *_: None)
    assert start(arms={"one": None}, seeds=[1], T_max=45) == 1  # the fake program plays 40
    assert "test one/seed-1" not in journal() and RunFolder(Path("out/one/seed-1")).scores() is None


def test_fault_34_two_experiments_in_one_folder(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    held = lock(Path("out/.lock"))
    assert held is not None
    with pytest.raises(SystemExit):
        start()
    assert "another experiment is running in out" in capsys.readouterr().err and journal() == []
    os.close(held)
    assert start() == 0


# Results of different code, configs or versions are never mixed


@pytest.fixture
def refused(start: Start, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs an experiment that must be refused before anything runs; gives the line that says why."""

    def go(*options: str, **changes: Any) -> str:
        journal()
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            start(*options, **changes)
        assert end.value.code == 2 and journal() == []
        line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
        return line.removeprefix("error: ")

    return go


def test_another_config_is_refused(start: Start, refused: Callable[..., str]) -> None:
    start()
    text = refused(arms={"one": None, "two": {"overrides": ["--lr=3"]}})
    assert "out/two/seed-1 holds a run that differs from what would be run now in: config (2 such of 4 runs)" in text
    assert "--folder" in text and "--set-aside" in text


def test_another_budget_is_another_config(start: Start, refused: Callable[..., str]) -> None:
    start()
    assert "in: config (4 such of 4 runs)" in refused(T_max=50)


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
    assert journal() == ["fit one/seed-1", "test one/seed-1"]


def test_runs_that_differ_can_be_set_aside_and_nothing_is_deleted(start: Start) -> None:
    start()
    journal()
    before = Path("out/two/seed-1/scores.json").read_bytes()
    for number in (0, 1):
        changed = {"one": None, "two": {"overrides": [f"--lr={number + 3}"]}}
        assert start("--set-aside", arms=changed) == 0
        assert journal() == [f"{what} two/seed-{seed}" for seed in (1, 2) for what in ("fit", "test")]
        assert Path(f"out/set_aside/two-seed-1-{number}/scores.json").is_file()
    assert Path("out/set_aside/two-seed-1-0/scores.json").read_bytes() == before


def test_another_folder_starts_anew(start: Start) -> None:
    start()
    journal()
    assert start("--folder=elsewhere", T_max=50) == 0
    assert len(journal()) == 8 and Path("elsewhere/two/seed-2/scores.json").is_file()


# Fingerprints


def test_the_code_hash_sees_every_file_that_a_run_may_import() -> None:
    names = {name for name, _ in fingerprint.sources()}
    assert {"cdrl_pl/collaboration.py", "cdrl_pl/rollouts/worker.py", "callbacks/transfers.py"} <= names
    assert not any(name.startswith(("cdrl_pl/report/", "cdrl_pl/experiment/")) for name in names)


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


# Arms that could not be compared


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"overrides": ["--no_checkpoints=1"]}, "arms.one: no callbacks.EnvStepsCheckpoint"),
        ({"overrides": ["--early=1"]}, "arms.one: a callback has stop: true"),
        ({"agent": "expert"}, "agent is 'expert', which does not learn in arm one; there learn pole"),
        ({"agent": "nobody"}, "agent is 'nobody'"),
        ({"overrides": ["--unknown=1"]}, "arms.one: there is no option --unknown"),
    ],
)
def test_an_unfair_or_wrong_arm_is_refused(changes: dict[str, Any], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(**changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": [1]}, "there is no option seed; did you mean seeds?"),
        ({"arms": {"one": {"overides": []}}}, "there is no option arms.one.overides; did you mean overrides?"),
        ({"arms": {}}, "arms is {}; it must be at least one arm"),
        ({"arms": {"one arm": None}}, "'one arm' is no name of an arm"),
        ({"baseline": "three"}, "baseline is 'three'; it must be one of the arms one, two"),
        ({"seeds": []}, "seeds is []; it must be whole numbers"),
        ({"seeds": [1, 1]}, "seeds is [1, 1]; it must be different"),
        ({"seeds": [-1]}, "seeds is [-1]"),
        ({"T_max": 0}, "T_max is 0; it must be 1 or more"),
        ({"T_max": True}, "T_max is True; it must be int"),
        ({"T_max": None}, "T_max is missing"),
        ({"episodes": 0}, "episodes is 0"),
        ({"threshold": "high"}, "threshold is 'high'; it must be int or float"),
        ({"config": "nowhere.yaml"}, "arms.one.config is 'nowhere.yaml', no file below"),
        ({"config": None}, "arms.one has no config"),
        ({"overrides": ["lr=3"]}, "has 'lr=3'; each must read --option=value"),
        ({"overrides": ["--seed=3"]}, "--seed, which the experiment decides"),
        ({"overrides": ["--T_max=3"]}, "--T_max, which the experiment decides"),
        ({"paper": [{"arm": "one", "value": 3}]}, "paper[0].protocol is missing"),
        ({"paper": [{"arm": "three", "value": 3, "protocol": "x"}]}, "paper[0].arm is 'three'"),
    ],
)
def test_a_mistake_in_the_file_is_named(changes: dict[str, Any], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(**changes)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        read_experiment(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ExperimentError, match="is not YAML"):
        read_experiment(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("option", "says"), [("--job=2", "no option --job; did you mean --jobs?"), ("--jobs=0", "--jobs is 0")]
)
def test_a_wrong_option_is_named(option: str, says: str, refused: Callable[..., str]) -> None:
    assert says in refused(option)


# Log lines while they are written


def test_the_last_whole_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert last_line(path) == {}
    path.write_text("a,b\n")
    assert last_line(path) == {}
    path.write_text("a,b\n" + "1,2\n" * 9000 + "3,4\n5,")
    assert last_line(path) == {"a": "3", "b": "4"}


# The experiments that are shipped


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_experiment_can_be_run(
    path: Path, build: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert path.read_text().startswith("# ")
    monkeypatch.chdir(REPOSITORY)
    experiment = read_experiment(path)
    configs = set()
    for arm in experiment.arms:
        built = build("fit", *experiment.options(arm), f"--trainer.default_root_dir={tmp_path}")
        config = yaml.safe_load(built.parser.dump(built.config, skip_none=False))["fit"]
        check_fair(experiment, arm, config)
        configs.add(fingerprint.config_hash(config))
        assert built.model.T_max == experiment.T_max and built.model.agents[experiment.agent].learns
    assert len(configs) == len(experiment.arms) > 1
    assert replace(experiment, episodes=100) == experiment


def test_a_config_that_is_never_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "READING", 0.2)
    waits = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(ExperimentError, match=r"arms\.one: its config was not read within 0\.2 s"):
        driver.resolved_config(waits, "one")
