"""Arms by seeds: what is run, what survives failure and interruption, and the experiments that are shipped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import command_line
import experiments
import pytest
import yaml
from command_line import CONFIGS, REPOSITORY, Run
from experiments import FAKE, Start, faulty, run_log, write

from cdrl_pl.experiment import driver
from cdrl_pl.experiment.driver import check_fair
from cdrl_pl.experiment.folder import RunFolder, last_line, lock
from cdrl_pl.experiment.plan import ExperimentError, read_experiment
from cdrl_pl.storage import fingerprint
from cdrl_pl.storage.checkpoints import is_whole

pytestmark = pytest.mark.slow

run, build, start = command_line.run, command_line.build, experiments.start
SHIPPED = sorted((CONFIGS / "experiments").glob("*.yaml"))
ORDER = ["one/seed-1", "two/seed-1", "one/seed-2", "two/seed-2"]


# What is run


def test_every_arm_has_every_seed_seed_by_seed(start: Start) -> None:
    assert start() == 0
    assert run_log() == [f"{what} {run}" for run in ORDER for what in ("fit", "test")]
    for arm, lr in (("one", 1), ("two", 2)):
        for seed in (1, 2):
            scores = RunFolder(Path("out", arm, f"seed-{seed}")).scores()
            assert scores is not None
            sampled = scores["agents"]["pole"]["evaluation"]["sampled"]
            assert (sampled["mean"], sampled["episodes"]) == (10 * lr + seed, 100)


def test_what_is_done_is_not_run_again(start: Start) -> None:
    start()
    run_log()
    assert start() == 0 and run_log() == []


def test_only_what_is_missing_is_run(start: Start) -> None:
    start(seeds=[2])
    run_log()
    assert start(seeds=[2, 3]) == 0
    assert run_log() == [f"{what} {arm}/seed-3" for arm in ("one", "two") for what in ("fit", "test")]


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
    assert run_log() == ["fit one/seed-1", *(f"{what} {run}" for run in ORDER[1:] for what in ("fit", "test"))]
    said = capfd.readouterr().err
    assert "3 of 4 runs done" in said and "failed: one/seed-1" in said and says in said


def test_a_killed_run_goes_on_from_its_newest_checkpoint(start: Start) -> None:
    start(**faulty("die"))
    run_log()
    assert start(**faulty("die")) == 0
    assert run_log() == ["fit one/seed-1 from 10.ckpt", "test one/seed-1"]
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
    number: int, code: int, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock's file stays, and holds nothing."""
    os.mkfifo("fifo")
    write(**faulty("wait"))
    program = f"""
        from cdrl_pl.cli.experiment import main
        raise SystemExit(main(["experiment.yaml"], {FAKE!r}))
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=environment)
    with open("fifo") as fifo:
        assert fifo.readline() == "there\n"
        with pytest.raises(SystemExit):  # a second driver, while the first is there
            start(**faulty("wait"))
        assert "another experiment is running in out" in capsys.readouterr().err
        process.send_signal(number)
        assert process.wait(30) == code
        assert fifo.read() == ""  # the run's process is gone too
    assert RunFolder(Path("out/one/seed-1")).newest_checkpoint() is not None and Path("out/.lock").is_file()
    run_log()
    assert start(**faulty("wait")) == 0
    assert run_log()[:2] == ["fit one/seed-1 from 20.ckpt", "test one/seed-1"]


def test_a_run_that_ends_before_its_budget_is_no_result(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "check_fair", lambda *_: None)
    assert start(arms={"one": None}, seeds=[1], T_max=45) == 1  # the fake program plays 40
    assert "test one/seed-1" not in run_log() and RunFolder(Path("out/one/seed-1")).scores() is None


@pytest.mark.parametrize("file", ["tiny.yaml", "expert/certificate.json", "map.safetensors"])
@pytest.mark.parametrize("when", ["fit", "test"])
def test_a_file_that_changes_while_an_experiment_runs_is_named(
    start: Start, capsys: pytest.CaptureFixture[str], file: str, when: str
) -> None:
    """Neither the run that is under way nor any after it counts; changed back, the experiment goes on."""
    Path("expert").mkdir()
    for name in ("expert/certificate.json", "map.safetensors"):
        Path(name).write_text("as it was")
    before = Path(file).read_bytes()
    arms = {"one": {"overrides": [f"--change={file}@{when}", "--stored=true"]}}
    assert start(arms=arms) == 1
    said = capsys.readouterr().err
    assert (
        f"failed: one/seed-1: {file} was changed while it was {'training' if when == 'fit' else 'evaluating'}" in said
    )
    assert f"failed: one/seed-2: {file} was changed while the experiment ran; it was not started" in said
    assert run_log() == ["fit one/seed-1", "test one/seed-1"][: 1 + (when == "test")]
    assert all(RunFolder(Path(f"out/one/seed-{seed}")).scores() is None for seed in (1, 2))
    Path(file).write_bytes(before)
    Path("changed").touch()
    assert start(arms=arms) == 0


def test_fault_34_two_experiments_in_one_folder(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    held = lock(Path("out/.lock"))
    assert held is not None
    with pytest.raises(SystemExit):
        start()
    assert "another experiment is running in out" in capsys.readouterr().err and run_log() == []
    os.close(held)
    assert start() == 0


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
        assert built.model.T_max == experiment.T_max and built.model.agents[experiment.agent].learner is not None
    assert len(configs) == len(experiment.arms) > 1
    assert replace(experiment, episodes=100) == experiment


def test_a_config_that_is_never_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "READING", 0.2)
    waits = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(ExperimentError, match=r"arms\.one: its config was not read within 0\.2 s"):
        driver.resolved_config(waits, "one")
