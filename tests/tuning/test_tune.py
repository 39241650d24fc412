"""Sweeps: what is run, given up, resumed and written; the one that is shipped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import sweeps
import yaml
from command_line import CONFIGS, REPOSITORY
from experiments import FAKE, run_log

from cdrl_pl.experiment.folder import RunFolder
from cdrl_pl.tuning.plan import read_sweep
from cdrl_pl.tuning.space import Parameter, corners, override
from cdrl_pl.tuning.study import Study
from cdrl_pl.tuning.trial import curve

optuna = pytest.importorskip("optuna", reason='sweeps need optuna: pip install "cdrl-pl[tune]"')
pytestmark = pytest.mark.slow
start = sweeps.start


def trials() -> list[Any]:
    return Study(read_sweep("sweep.yaml")).trials


def gains() -> list[float]:
    return [trial.params["--gain"] for trial in trials()]


# What is run


def test_every_trial_is_trained_with_every_seed_and_its_value_is_the_mean(start: sweeps.Start) -> None:
    assert start(seeds=[1, 2], trials=2) == 0
    assert run_log() == [f"fit trial-000{n}/seed-{seed}" for n in (0, 1) for seed in (1, 2)]
    assert [trial.value for trial in trials()] == pytest.approx([4 * gain for gain in gains()])


def test_the_same_command_runs_only_what_is_missing(start: sweeps.Start) -> None:
    assert start(trials=2) == 0
    before = gains()
    run_log()
    assert start(trials=2) == 0 and run_log() == []
    assert start("--trials=3", trials=2) == 0 and run_log() == ["fit trial-0002/seed-1"]
    assert gains()[:2] == before and len(set(gains())) == 3  # and it does not draw the first ones again


def test_two_trials_at_once_run_at_once(start: sweeps.Start) -> None:
    """Each of the two waits for the other."""
    os.mkfifo("fifo")
    program = Path("meeting.py")
    program.write_text(
        "import sys, runpy\n"
        "root = next((w for w in sys.argv if 'default_root_dir' in w), '')\n"
        "if root: open('fifo', 'r' if 'trial-0000' in root else 'w').close()\n"
        f"sys.argv[0] = {FAKE[-1]!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    sweeps.write(trials=2)
    assert sweeps.tune.main(["sweep.yaml", "--jobs=2"], (sys.executable, "meeting.py")) == 0


def test_a_trial_that_is_worse_than_the_median_is_given_up(start: sweeps.Start) -> None:
    pruner = {"kind": "median", "startup": 2, "warmup": 0, "every": 10}
    space = {"--gain": {"float": [0.1, 10.0]}}
    assert start(trials=8, pruner=pruner, space=space, sampler_seed=3) == 0
    states = [trial.state.name for trial in trials()]
    assert states[:2] == ["COMPLETE", "COMPLETE"] and "PRUNED" in states
    done = [trial.params["--gain"] for trial in trials() if trial.state.name == "COMPLETE"]
    assert max(gains()) in done and "given up at T = " in Path("out/report.md").read_text()


def test_without_a_pruner_none_is_given_up(start: sweeps.Start) -> None:
    assert start(trials=8, space={"--gain": {"float": [0.1, 10.0]}}, sampler_seed=3) == 0
    assert {trial.state.name for trial in trials()} == {"COMPLETE"}


@pytest.mark.parametrize(("direction", "better"), [("maximize", max), ("minimize", min)])
def test_the_best_is_written_as_a_config_and_in_the_report(start: sweeps.Start, direction: str, better: Any) -> None:
    assert start(direction=direction, space={"--lr": {"choices": [1, 2]}, "--gain": {"float": [0.5, 2.0]}}) == 0
    best = next(trial for trial in trials() if trial.params["--gain"] == better(gains()))
    config = yaml.safe_load(Path("out/best.yaml").read_text())
    assert config["model"]["--lr"] == str(best.params["--lr"]) and config["model"]["--T_max"] == "40"
    report = Path("out/report.md").read_text()
    assert f"Best: trial {best.number}, {best.value:.6g}" in report and "| PED-ANOVA |" in report


# Failures and interruptions


def test_a_trial_that_fails_is_named_and_the_others_go_on(
    start: sweeps.Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(overrides=["--fault=refuse@trial-0001/seed-1"]) == 0
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "trial-0001: failed: seed 1: exit code 2: error: this cannot be" in capsys.readouterr().err
    assert "failed: seed 1: exit code 2" in Path("out/report.md").read_text()


def test_where_the_first_trials_all_fail_the_sweep_ends(
    start: sweeps.Start, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (sys.executable, "-c", f"import sys, runpy; sys.argv[0] = {FAKE[-1]!r}\n" + textwrap.dedent("""
        if '--print_config' not in sys.argv:
            raise SystemExit('error: nothing here works')
        runpy.run_path(sys.argv[0], run_name='__main__')"""))  # fmt: skip
    sweeps.write(trials=9)
    assert sweeps.tune.main(["sweep.yaml"], program) == 1
    assert len(trials()) == 3
    assert "the first 3 trials all failed, the last: seed 1: exit code 1: error: nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_sweep_that_is_ended_goes_on_with_the_same_trial_from_its_checkpoint(
    number: int, code: int, start: sweeps.Start, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("fifo")
    fault = ["--fault=wait@trial-0001/seed-1"]
    sweeps.write(overrides=fault)
    program = f"""
        from cdrl_pl.cli.tune import main
        raise SystemExit(main(["sweep.yaml"], {FAKE!r}))
    """
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], env={**os.environ, "PYTHONPATH": paths}
    )
    with open("fifo") as fifo:
        assert fifo.readline() == "there\n"
        with pytest.raises(SystemExit):  # a second driver, while the first is there
            start(overrides=fault)
        assert "another sweep is running in out" in capsys.readouterr().err
        process.send_signal(number)
        assert process.wait(30) == code
        assert fifo.read() == ""  # the trial's process is gone too
    before = gains()
    run_log()
    assert start(overrides=fault) == 0
    assert run_log() == ["fit trial-0001/seed-1 from 20.ckpt", "fit trial-0002/seed-1"]
    assert gains()[:2] == before and [trial.state.name for trial in trials()] == ["COMPLETE"] * 3
    assert trials()[1].value == pytest.approx(4 * before[1])


def test_a_killed_sweeps_journal_lock_is_not_waited_for(start: sweeps.Start) -> None:
    assert start(trials=1) == 0
    Path("out/journal.log.lock").symlink_to("journal.log")
    assert start(trials=2) == 0


@pytest.mark.parametrize("changes", [{"T_max": 50}, {"metric": "length/pole"}, {"seeds": [2]}])
def test_another_sweep_is_never_mixed_in(start: sweeps.Start, changes: dict[str, Any], capsys: Any) -> None:
    assert start(trials=1) == 0
    with pytest.raises(SystemExit):
        start(trials=2, **changes)
    said = capsys.readouterr().err
    assert f"holds a sweep that differs from this one in: {next(iter(changes))}" in said and "--folder" in said


def test_other_code_is_never_mixed_in(start: sweeps.Start, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(trials=1) == 0
    path = Path("out/fingerprint.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "other"}))
    with pytest.raises(SystemExit):
        start(trials=2)
    assert "differs from this one in: code" in capsys.readouterr().err


def test_a_database_keeps_a_sweep_as_well(start: sweeps.Start) -> None:
    assert start(trials=1, storage="sqlite:///study.db") == 0
    assert start(trials=2, storage="sqlite:///study.db") == 0
    assert Path("study.db").is_file() and not Path("out/journal.log").exists() and len(trials()) == 2


# Parts


def test_what_a_resumed_run_plays_again_counts_once(tmp_path: Path) -> None:
    for number, lines in enumerate(("10,1\n20,2\n30,3\n", "20,5\n30,\n40,6\n50")):
        (tmp_path / f"version_{number}").mkdir()
        (tmp_path / f"version_{number}" / "metrics.csv").write_text("env_steps,return/pole\n" + lines)
    assert curve(RunFolder(tmp_path), "return/pole") == [(10, 1.0), (20, 5.0), (40, 6.0)]


def test_every_bound_and_every_choice_is_checked_once() -> None:
    space = (Parameter("--a", "float", (1e-5, 1.0)), Parameter("--b", "choices", (True, None, "x")))
    assert corners(space) == [["--a=1e-05", "--b=true"], ["--a=1.0", "--b=null"], ["--a=1e-05", "--b=x"]]
    assert override("--a", 1) == "--a=1"


@pytest.mark.parametrize("path", sorted((CONFIGS / "tuning").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_sweep_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert path.read_text().startswith("# ") and read_sweep(path).trials > 1
