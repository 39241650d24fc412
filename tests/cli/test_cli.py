"""The command line: help, errors that say what to type, short options, and what a run leaves behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
import small_runs
from command_line import CONFIGS, Run, edge, tiny, write
from small_runs import BOTH, metrics

from cdrl_pl import __main__
from cdrl_pl.cli import main as cli
from cdrl_pl.cli import options
from cdrl_pl.system.hardware import fast_precision
from cdrl_pl.training.run_folder import new_folder

run, build, refused = command_line.run, command_line.build, command_line.refused
finished = small_runs.finished
CARTPOLE = CONFIGS / "teachers/cartpole.yaml"


# Help


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The exit code of the top level, which handles these arguments by itself."""
    monkeypatch.setattr(sys, "argv", ["cdrl_pl", *arguments])
    with pytest.raises(SystemExit) as end:
        __main__.main()
    return end.value.code


def test_help_imports_no_torch_and_answers_within_two_seconds(tmp_path: Path) -> None:
    check = "import runpy, sys; sys.argv = ['cdrl_pl', '--help']\n"
    check += "try: runpy.run_module('cdrl_pl', run_name='__main__')\n"
    check += "finally: assert not {'torch', 'pytorch_lightning', 'numpy'} & set(sys.modules), 'imported'"
    seconds = []
    for _ in range(3):  # the best of three, since this machine may be busy with other things
        began = time.perf_counter()
        answer = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, cwd=tmp_path)
        seconds.append(time.perf_counter() - began)
        assert answer.returncode == 0 and "usage:" in answer.stdout and not answer.stderr, answer.stderr
    assert min(seconds) < 2.0


@pytest.mark.parametrize(
    "option",
    ["--T1", "--T2", "--stop", "--T_max", "--workers", "--copies", "--seed", "--precision", "--devices", "--ckpt_path"],
)
def test_help_documents(option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(monkeypatch, "--help") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [len(line) > 4 for line in lines if line[:1] == [option]] == [True]


def test_help_documents_every_short_option() -> None:
    assert [option for option in options.SHORT if f"\n  {option} " not in __main__.help_text()] == []


def test_no_arguments_give_the_usage_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch) == 2
    assert capsys.readouterr().err.startswith("usage: python -m cdrl_pl")


@pytest.mark.parametrize(("typed", "meant"), [("fitt", "fit"), ("valdate", "validate"), ("predcit", "predict")])
def test_an_unknown_command_names_the_nearest(
    typed: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, typed) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_an_option_before_the_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, "--config", str(CARTPOLE)) == 2
    said = capsys.readouterr().err
    commands = "fit, validate, test, predict, experiment, tune, report, import, export, doctor"
    assert f"the first argument must be one (commands: {commands})" in said


def test_the_help_of_fit_lists_the_options(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("fit", "--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    for option in ("--model.agents", "--model.T_max", "--data.evaluation_episodes", "--trainer.devices", "--ckpt_path"):
        assert option in out


# Short options


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["--{}={}", "--{} {}"])
@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("T1", 41, lambda built: [t.schedule.T1 for t in built.model.transfers]),
        ("T2", 81, lambda built: [t.schedule.T2 for t in built.model.transfers]),
        ("stop", 99, lambda built: [t.schedule.stop for t in built.model.transfers]),
        ("T_max", 7, lambda built: built.model.T_max),
        ("workers", 3, lambda built: built.datamodule.pool.workers),
        ("copies", 3, lambda built: built.datamodule.pool.copies),
        ("seed", 7, lambda built: built.datamodule.resolved_seed()),
        (
            "precision",
            "32-true" if fast_precision() == "bf16-mixed" else "bf16-mixed",
            lambda built: built.trainer.precision,
        ),
        ("devices", 2, lambda built: built.trainer.num_devices),
    ],
)
def test_a_short_option_reaches_the_run(
    name: str, value: Any, read: Callable[[cli.CLI], Any], spelling: str, build: Run, tmp_path: Path
) -> None:
    config = write(tmp_path / "tiny.yaml", tiny(transfers=[edge(), edge(teacher="beta", student="alpha")], **BOTH))
    found = read(build("fit", "--config", config, *spelling.format(name, value).split()))
    assert found in (value, [value, value]) and read(build("fit", "--config", config)) != found


TEACHER_FOLDER = str(CONFIGS.parent / "teachers" / "pong")


@pytest.mark.parametrize(
    "spelling", [["--teacher={}", "--env=Bowling-2017"], ["--env", "Bowling-2017", "--teacher", "{}"]]
)
def test_a_teacher_and_a_task_are_a_graph_of_one_agent(spelling: list[str], build: Run) -> None:
    words = [word.format(TEACHER_FOLDER) for word in spelling]
    built = build("test", *words, "--episodes=7")
    assert list(built.model.agents) == ["teacher"] and built.model.agents["teacher"].learner is None
    assert built.model.agents["teacher"].env.id == "Bowling-2017" and built.datamodule.evaluation_episodes == 7
    assert build("test", "--teacher", TEACHER_FOLDER).model.agents["teacher"].env.id == "ALE/Pong-v5"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--env=Bowling-2017"], "--env is of --teacher"),
        (["--teacher"], "--teacher needs a value"),
        (["--teacher", TEACHER_FOLDER, "--env", "--episodes=3"], "--env needs a value"),
        (["--teacher", TEACHER_FOLDER, "--env=ALE/Breakout-v5"], "chooses among 6 actions"),
    ],
)
def test_a_teacher_without_a_task_or_a_task_that_it_does_not_fit(
    words: list[str], says: str, refused: Callable[..., str]
) -> None:
    assert says in refused(*words, command="test")


def test_stop_can_be_never(build: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny(transfers=[edge(stop=100)], **BOTH))
    assert build("fit", "--config", config, "--stop", "never").model.transfers[0].schedule.stop is None


# What a run leaves behind


@pytest.mark.slow
def test_a_run_writes_into_one_folder_below_its_root(finished: Path) -> None:
    written = {str(p.relative_to(finished / "root")) for p in (finished / "root").rglob("*") if p.is_file()}
    events = {name for name in written if "tfevents" in name}
    assert len(events) == 1
    assert written - events == {
        "version_0/action_distributions.jsonl",
        "version_0/config.yaml",
        "version_0/hparams.yaml",
        "version_0/metrics.csv",
        "version_0/checkpoints/env_steps=80.ckpt",
        "version_0/checkpoints/env_steps=120.ckpt",
        "version_0/teacher/alpha/certificate.json",
        "version_0/teacher/alpha/weights.safetensors",
    }


@pytest.mark.parametrize("place", ["cwd", "home", "tmp"])
def test_a_run_writes_nothing_elsewhere(place: str, finished: Path) -> None:
    assert list((finished / place).rglob("*")) == []


def test_the_metrics_have_the_decisions_in_their_own_column(finished: Path) -> None:
    lines = metrics(finished / "root" / "version_0")
    assert [line["env_steps"] for line in lines] == [line["step"] for line in lines]
    assert [float(line["env_steps"]) for line in lines] == [20, 40, 60, 80, 100, 120]


def test_the_saved_config_alone_starts_the_run_again(finished: Path, run: Run) -> None:
    first = finished / "root" / "version_0"
    before = (first / "metrics.csv").read_bytes()
    again = Path(run("fit", "--config", first / "config.yaml").trainer.log_dir or "")
    assert again != first and again.parent == first.parent
    assert (first / "metrics.csv").read_bytes() == before
    compared = [k for k in metrics(first)[0] if "loss" in k or k.startswith("return")]
    assert len(compared) == 6
    assert [{k: line[k] for k in compared} for line in metrics(again)] == [
        {k: line[k] for k in compared} for line in metrics(first)
    ]


def test_two_runs_at_once_get_two_folders(tmp_path: Path) -> None:
    assert [new_folder(tmp_path).name for _ in range(2)] == ["version_0", "version_1"]


def test_loggers_that_a_config_names_are_kept(build: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny())
    assert build("fit", "--config", config, "--trainer.logger=false").trainer.loggers == []
