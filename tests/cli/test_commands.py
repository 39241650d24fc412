"""Going on from a checkpoint, the other commands on it, and precision."""

from __future__ import annotations

import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import command_line
import pytest
import pytorch_lightning as pl
import small_runs
import torch
from command_line import Run, call, callback, pole, tiny, write
from pytorch_lightning.loggers import CSVLogger
from small_runs import BOTH, CHECKPOINT, metrics

from cdrl_pl.envs import EnvConfig
from cdrl_pl.storage.atomic import write_whole
from cdrl_pl.training import evaluator
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.evaluator import EvaluationJob, Evaluator

pytestmark = pytest.mark.slow

run, refused = command_line.run, command_line.refused
finished = small_runs.finished


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
            raise OSError(13, "Permission denied")
        inner(self, metrics, step)

    with (
        monkeypatch.context() as patched,
        pytest.raises(OSError, match=r"Permission denied: 'runs/version_0/metrics.csv'"),
    ):
        patched.setattr(CSVLogger, "log_metrics", full)
        run("fit", "--config", config)
    checkpoint = tmp_path / "runs" / "version_0" / "checkpoints" / "env_steps=80.ckpt"
    ended = run("fit", "--config", config, "--ckpt_path", checkpoint)
    lines = [float(line["env_steps"]) for line in metrics(Path(ended.trainer.log_dir or ""))]
    assert lines == [100, 120]


@pytest.mark.parametrize(
    "file", ["metrics.csv", "action_distributions.jsonl", "env_steps=40.ckpt", "weights.safetensors"]
)
def test_fault_16_a_full_disk_is_one_sentence_that_names_the_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    """What is written line by line goes to a device that is always full; what is written whole, past a limit."""
    teacher = callback("callbacks.CertificatedTeacher", agent="pole", threshold=0, window=1, episodes=2)
    config, folder = write(tmp_path / "tiny.yaml", tiny(CHECKPOINT, teacher)), tmp_path / "runs" / "full"
    folder.mkdir(parents=True)
    if file.endswith(("csv", "jsonl")):
        (folder / file).symlink_to("/dev/full")

    def on_a_full_disk(path: Path, content: memoryview) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if path.name == file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            write_whole(path, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    for module in ("callbacks.checkpoint", "cdrl_pl.agents.certificate"):
        monkeypatch.setattr(f"{module}.write_whole", on_a_full_disk)
    monkeypatch.setattr("cdrl_pl.cli.trainer.new_folder", lambda root: root / "full")
    with pytest.raises(SystemExit) as end:
        run("fit", "--config", config)
    assert end.value.code == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if re.match("error: |Traceback", line))
    what = r"(No space left on device|File too large)"
    assert re.match(rf"error: {what}: \S*/?runs/full/(\S+/)?{re.escape(file)}; make room, and start it again", line)


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
    said = refused(*config, "--ckpt_path", tmp_path / "damaged.ckpt")
    assert "damaged.ckpt', which is damaged, or no checkpoint" in said


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


def test_predict_writes_a_video_of_every_agent_into_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    import cv2

    pong = {"env": {"id": "Pong-2017", "max_episode_steps": 6}, "network": {"channels": 4, "lstm": 8}}
    config = write(tmp_path / "tiny.yaml", tiny(CHECKPOINT, pong=pong))
    fitted = run("fit", "--config", config, "--T_max=40")
    checkpoint = Path(fitted.trainer.log_dir or "") / "checkpoints" / "env_steps=40.ckpt"
    run("predict", "--config", config, "--ckpt_path", checkpoint)
    video = cv2.VideoCapture(str(tmp_path / "runs" / "version_1" / "videos" / "pong.webm"))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 7 and list(tmp_path.rglob("*.webm")) == [tmp_path / "runs" / "version_1" / "videos" / "pong.webm"]


def test_a_video_is_of_the_task_as_policies_are_scored_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def save(network: Any, env: Any, folder: Path, name: str, seed: int, advice: Any, tick: Any) -> str:
        seen.append((env.id, env.noop_max, seed, advice))
        return ""

    monkeypatch.setattr(evaluator, "save_episode", save)
    agents: Any = {"pong": SimpleNamespace(network=None, env=EnvConfig("Pong-2017"))}
    Evaluator(agents, lambda: False).record(EvaluationJob("pong", False, 1, seed=7, noop_max=12), tmp_path)
    assert seen == [("ALE/Pong-v5", 12, 7, None)]


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
    config = write(tmp_path / "tiny.yaml", tiny(callback(f"{__name__}.Kinds")))
    ended = run("fit", "--config", config, "--precision", precision)
    assert Kinds.seen == {kind}
    lines = metrics(Path(ended.trainer.log_dir or ""))
    assert len(lines) == 6 and all(torch.isfinite(torch.tensor(float(v))) for line in lines for v in line.values() if v)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in ended.model.parameters())
    assert all(float(line["skipped_steps/student/pole"]) == 0 for line in lines)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04 and then nothing"], ids=["empty", "text", "cut"])
def test_fault_18_a_file_that_is_no_checkpoint_is_named(
    tmp_path: Path, refused: Callable[..., str], content: bytes
) -> None:
    (tmp_path / "some.ckpt").write_bytes(content)
    config = write(tmp_path / "tiny.yaml", tiny())
    said = refused("--config", config, "--ckpt_path", tmp_path / "some.ckpt")
    assert "some.ckpt" in said and "is damaged, or no checkpoint" in said


def test_a_temporary_folder_with_a_long_name_is_refused_at_once(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    answer = call("fit", "--config", write(tmp_path / "tiny.yaml", tiny()), cwd=tmp_path, TMPDIR=str(long))
    assert answer.returncode == 2 and answer.stderr.startswith("error: TMPDIR is") and "Traceback" not in answer.stderr
