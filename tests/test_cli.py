"""The command line: help, errors that say what to type, short options, what a run leaves behind, other commands."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command_line
import matplotlib
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from command_line import CONFIGS, Run, call, callback, edge, pole, tiny, write
from pytorch_lightning.loggers import CSVLogger

from cdrl_pl import __main__, cli, options, video
from cdrl_pl.collaboration import Collaboration
from cdrl_pl.envs import EnvConfig

run, build, refused = command_line.run, command_line.build, command_line.refused
CARTPOLE = CONFIGS / "cartpole.yaml"
CHECKPOINT = callback("callbacks.EnvStepsCheckpoint", every=40)
TEACHER = callback("callbacks.CertificatedTeacher", agent="alpha", threshold=1e9)
BOTH = {"alpha": pole(), "beta": pole()}

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
    assert [option for option in options.SHORT if f"\n  {option} " not in __main__.HELP] == []


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
    assert "the first argument must be one (commands: fit, validate, test, predict, experiment, report)" in said


def test_the_help_of_fit_lists_the_options(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("fit", "--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    for option in ("--model.agents", "--model.T_max", "--data.evaluation_episodes", "--trainer.devices", "--ckpt_path"):
        assert option in out


# Short options


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
        ("precision", "64-true", lambda built: built.trainer.precision),
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
    assert list(built.model.agents) == ["teacher"] and not built.model.agents["teacher"].learns
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


def test_a_run_writes_into_one_folder_below_its_root(finished: Path) -> None:
    written = {str(p.relative_to(finished / "root")) for p in (finished / "root").rglob("*") if p.is_file()}
    events = {name for name in written if "tfevents" in name}
    assert len(events) == 1
    assert written - events == {
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
    assert [cli.new_version(tmp_path), cli.new_version(tmp_path)] == ["version_0", "version_1"]


def test_loggers_that_a_config_names_are_kept(build: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny())
    assert build("fit", "--config", config, "--trainer.logger=false").trainer.loggers == []


# Going on, and the other commands


def saved(finished: Path) -> list[str | Path]:
    """The options that name the config and a checkpoint of the run, in a copy that nothing writes to."""
    run = finished / "copy" / "version_0"
    return ["--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "env_steps=80.ckpt"]


def test_a_resumed_run_leaves_the_files_of_the_first_run_alone(finished: Path, run: Run) -> None:
    first = finished / "root" / "version_0"
    shutil.copytree(finished / "copy" / "version_0", first, dirs_exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in first.rglob("*")}
    run("fit", *saved(finished), "--T_max=200")
    assert {p: p.stat().st_mtime_ns for p in first.rglob("*")} == before


def test_fault_33_a_log_that_cannot_be_written_ends_the_run_after_a_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, and the run can be resumed; the lines of the new run go on from there."""
    inner, config = CSVLogger.log_metrics, write(tmp_path / "tiny.yaml", tiny(CHECKPOINT))

    def full(self: CSVLogger, metrics: dict[str, float], step: int | None = None) -> None:
        if step is not None and step >= 100:
            raise OSError(28, "No space left on device", "metrics.csv")
        inner(self, metrics, step)

    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"No space left on device: 'metrics.csv'"):
        patched.setattr(CSVLogger, "log_metrics", full)
        run("fit", "--config", config)
    checkpoint = tmp_path / "runs" / "version_0" / "checkpoints" / "env_steps=80.ckpt"
    ended = run("fit", "--config", config, "--ckpt_path", checkpoint)
    lines = [float(line["env_steps"]) for line in metrics(Path(ended.trainer.log_dir or ""))]
    assert lines == [100, 120]


def test_a_resumed_run_goes_on_to_a_T_max_given_beside_the_checkpoint(  # noqa: N802
    finished: Path, run: Run
) -> None:
    ended = run("fit", *saved(finished), "--T_max=150")
    assert ended.model.env_steps == {"alpha": 150, "beta": 150}
    assert float(metrics(Path(ended.trainer.log_dir or ""))[0]["env_steps"]) == 100


def test_a_resumed_run_takes_a_learning_rate_given_beside_the_checkpoint(finished: Path, run: Run) -> None:
    ended = run("fit", *saved(finished), "--model.agents.beta.learner.lr=0.5")
    assert [o.param_groups[0]["lr"] for o in ended.trainer.optimizers] == [1e-4, 0.5, 1e-4]


def test_a_checkpoint_of_other_agents_is_refused(finished: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    _, _, *checkpoint = saved(finished)
    config = write(tmp_path / "tiny.yaml", tiny(gamma=pole()))
    text = refused("--config", config, *checkpoint)
    assert "alpha, beta" in text and "gamma" in text


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_of_another_network_is_refused(command: str, finished: Path, refused: Callable[..., str]) -> None:
    text = refused(*saved(finished), "--model.agents.beta.network.hidden=9", command=command)
    assert "does not fit the config" in text and "_agents.beta.network" in text


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_fault_18_a_damaged_checkpoint_is_refused(
    kept: int, finished: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    *config, _, checkpoint = saved(finished)
    (tmp_path / "damaged.ckpt").write_bytes(Path(checkpoint).read_bytes()[:kept])
    assert "the checkpoint cannot be read" in refused(*config, "--ckpt_path", tmp_path / "damaged.ckpt")


def test_a_runs_folder_stands_for_its_newest_checkpoint(finished: Path, run: Run) -> None:
    *config, _, path = saved(finished)
    folder = Path(path).parents[1]
    for given in (folder, folder / "checkpoints"):
        assert run("test", *config, "--ckpt_path", given, "--episodes=1").trainer.ckpt_path == str(newest(folder))


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir(), key=lambda p: int(p.stem.split("=")[1]))


def test_fault_18_where_the_newest_is_damaged_the_one_before_is_taken_and_that_is_said(
    finished: Path, run: Run, tmp_path: Path
) -> None:
    *config, _, path = saved(finished)
    shutil.copytree(Path(path).parent, tmp_path / "checkpoints")
    cut = newest(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"{re.escape(cut.name)} is damaged; the one before it is taken"):
        ended = run("fit", *config, "--ckpt_path", tmp_path, "--T_max=140")
    assert float(metrics(Path(ended.trainer.log_dir or ""))[0]["env_steps"]) == 100
    assert ended.model.env_steps == {"alpha": 140, "beta": 140}


def test_fault_18_a_folder_without_a_whole_checkpoint_is_refused(
    finished: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    *config, _, _ = saved(finished)
    (tmp_path / "env_steps=5.ckpt").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert "a folder without a whole checkpoint" in refused(*config, "--ckpt_path", tmp_path)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_can_be_evaluated(command: str, finished: Path, run: Run) -> None:
    options = saved(finished)
    ended = run(command, *options, "--data.evaluation_episodes=3")
    scores = {f"{agent}/{policy}" for agent in BOTH for policy in ("sampled", "greedy")}
    logged = ended.trainer.callback_metrics
    assert {key.removesuffix("/mean") for key in logged if key.endswith("/mean")} == scores
    for name in scores:
        assert logged[f"{name}/episodes"] == 3 and 1 <= logged[f"{name}/mean"] <= 12
    weights = torch.load(options[-1], weights_only=True)["state_dict"]
    assert all(torch.equal(v, weights[k]) for k, v in ended.model.state_dict().items())


@pytest.mark.parametrize("command", ["validate", "test"])
def test_agents_that_learned_nothing_are_not_evaluated_in_silence(
    command: str, finished: Path, run: Run, recwarn: pytest.WarningsRecorder
) -> None:
    *config, option, checkpoint = saved(finished)
    untrained = "no --ckpt_path was given: alpha, beta will play with untrained, initial weights"
    for arguments, wanted in (([option, checkpoint], []), ([], [untrained])):
        recwarn.clear()
        run(command, *config, *arguments, "--data.evaluation_episodes=1")
        assert [str(w.message) for w in recwarn if "ckpt_path" in str(w.message)] == wanted


def test_predict_writes_a_video_of_every_agent_below_the_root(run: Run, tmp_path: Path) -> None:
    import cv2

    pong = {"env": {"id": "Pong-2017", "max_episode_steps": 6}, "network": {"channels": 4, "lstm": 8}}
    config = write(tmp_path / "tiny.yaml", tiny(CHECKPOINT, pong=pong))
    fitted = run("fit", "--config", config, "--T_max=40")
    checkpoint = Path(fitted.trainer.log_dir or "") / "checkpoints" / "env_steps=40.ckpt"
    run("predict", "--config", config, "--ckpt_path", checkpoint)
    video = cv2.VideoCapture(str(tmp_path / "runs" / "videos" / "pong.mp4"))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 7 and list(tmp_path.rglob("*.mp4")) == [tmp_path / "runs" / "videos" / "pong.mp4"]


def test_a_video_is_of_the_task_as_policies_are_scored_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def record(network: Any, env: Any, seed: int) -> Any:
        seen.append((env.id, env.noop_max, seed))
        return np.zeros((1, 8, 8, 3), np.uint8), 0.0

    monkeypatch.setattr(video, "record", record)
    agent = SimpleNamespace(network=None, env=EnvConfig("Pong-2017"))
    video.save_episode(agent, "pong", str(tmp_path), SimpleNamespace(noop_max=12, resolved_seed=lambda: 7))
    assert seen == [("ALE/Pong-v5", 12, 7)]


def test_a_task_that_cannot_be_drawn_is_refused_before_anything_is_played(
    run: Run, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)  # as where it is not installed
    with pytest.raises(SystemExit) as ended:
        run("predict", *saved(finished))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "env.id 'CartPole-v1' cannot be drawn: pygame is not installed" in said and "Traceback" not in said


# Precision


class Kinds(pl.Callback):
    """Notes in which precision the trunk computes."""

    seen: set[torch.dtype] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Collaboration)
        trunk = pl_module.agents["pole"].network.trunk
        trunk.register_forward_hook(lambda module, inputs, output: self.seen.add(output.dtype))


@pytest.mark.parametrize(("precision", "kind"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_precision_on_the_cpu(precision: str, kind: torch.dtype, run: Run, tmp_path: Path) -> None:
    Kinds.seen = set()
    config = write(tmp_path / "tiny.yaml", tiny(callback("test_cli.Kinds")))
    ended = run("fit", "--config", config, "--precision", precision)
    assert Kinds.seen == {kind}
    lines = metrics(Path(ended.trainer.log_dir or ""))
    assert len(lines) == 6 and all(torch.isfinite(torch.tensor(float(v))) for line in lines for v in line.values() if v)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in ended.model.parameters())
    assert all(float(line["skipped_steps/student/pole"]) == 0 for line in lines)
