"""The folder of a run's own files, whatever loggers it has: of command lines, of scripts, and on several ranks."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import command_line
import pytest
import pytorch_lightning as pl
from command_line import MODULE, REPOSITORY, Run, callback, environment, pole, tiny, write
from graphs import FixedData, alone, random_batch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

from callbacks import EnvStepsCheckpoint
from cdrl_pl.training.run_folder import new_folder, run_folder

run = command_line.run


class Tracker(Logger):
    """As trackers of experiments are to Lightning: a name and a version of their own, and no folder of the run's."""

    save_dir = None  # type: ignore[assignment]  # as MLflow's with a database

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[dict[str, float], int | None]] = []

    @property
    def name(self) -> str:
        return "project"

    @property
    def version(self) -> str:
        return "always-the-same"

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((metrics, step))


class InTheCurrentFolder(Tracker):
    """As W&B's: what it keeps is below the current folder."""

    save_dir = "."  # type: ignore[assignment]


LOGGERS: dict[str, Any] = {
    "its own": None,
    "none": False,
    "without a folder": [{"class_path": f"{__name__}.Tracker"}],
    "in the current folder": [{"class_path": f"{__name__}.InTheCurrentFolder"}],
    "a fixed version": [callback("pytorch_lightning.loggers.CSVLogger", save_dir="logs", version="fixed")],
    "several": [
        {"class_path": f"{__name__}.InTheCurrentFolder"},
        {"class_path": f"{__name__}.Tracker"},
        callback("pytorch_lightning.loggers.TensorBoardLogger", save_dir="logs", version="fixed"),
    ],
}
TEACHER = callback("callbacks.CertificatedTeacher", agent="pole", threshold=0, window=1, episodes=1)
BEST = callback("pytorch_lightning.callbacks.ModelCheckpoint", filename="best")


def config(folder: Path, logger: Any) -> Path:
    content = tiny(TEACHER, BEST, pole=pole())
    content["model"]["T_max"] = 40
    content["trainer"]["logger"] = logger
    return write(folder / "tiny.yaml", content)


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and "tfevents" not in p.name}


@pytest.mark.parametrize("loggers", LOGGERS)
def test_fault_34_two_runs_have_two_folders_whatever_logs_them(loggers: str, run: Run, tmp_path: Path) -> None:
    path = config(tmp_path, LOGGERS[loggers])
    for _ in range(2):
        ended = run("fit", "--config", path)
    wanted = {
        "config.yaml", "checkpoints/best.ckpt", "checkpoints/env_steps=40.ckpt", "teacher/pole/certificate.json",
        "teacher/pole/weights.safetensors", "action_distributions.jsonl", "metrics.csv",
    }  # fmt: skip
    wanted -= {"metrics.csv"} if loggers == "none" else set()
    for version in ("version_0", "version_1"):
        assert files(tmp_path / "runs" / version) - {"hparams.yaml"} == wanted
    elsewhere = {p.name for p in tmp_path.iterdir()} - {"tiny.yaml", "runs", "logs"}
    assert elsewhere == set() and {p.name for p in (tmp_path / "runs").iterdir()} == {"version_0", "version_1"}
    trackers: list[Any] = [logger for logger in ended.trainer.loggers if isinstance(logger, Tracker)]
    assert all([step for _, step in tracker.lines] == [20, 40] for tracker in trackers)
    again = run("fit", "--config", path, "--ckpt_path", "runs/version_0", "--T_max=60")
    assert again.trainer.ckpt_path == "runs/version_0/checkpoints/env_steps=40.ckpt"
    assert "checkpoints/env_steps=60.ckpt" in files(tmp_path / "runs" / "version_2")


@pytest.mark.parametrize("loggers", ["none", "without a folder", "in the current folder"])
def test_scores_and_videos_are_in_the_runs_folder(
    loggers: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdrl_pl.training.datamodule.check_drawn", lambda env: None)
    shown: list[Path] = []

    def save_episode(network: Any, env: Any, folder: Path, name: str, *_: Any, **__: Any) -> None:
        shown.append(folder / name)

    monkeypatch.setattr("cdrl_pl.training.evaluator.save_episode", save_episode)
    path = config(tmp_path, LOGGERS[loggers])
    for _ in range(2):
        run("test", "--config", path, "--episodes=1")
    run("predict", "--config", path)
    for version in ("version_0", "version_1"):
        assert {"config.yaml", "scores.json"} <= files(tmp_path / "runs" / version)
    assert shown == [Path("runs/version_2/videos/pole")]


def test_fault_34_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    """As many as there are threads, over and over, all at once."""
    made: list[Path] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.extend(new_folder(tmp_path / "runs") for _ in range(20))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(path.name.removeprefix("version_")) for path in made) == list(range(160))


def test_a_resumed_run_says_where_the_first_half_of_its_curve_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a tracker has no folder."""
    path = config(tmp_path, LOGGERS["without a folder"])
    run("fit", "--config", path)
    run("fit", "--config", path, "--ckpt_path", "runs/version_0", "--T_max=60")
    said = capsys.readouterr().err
    assert "run folder: runs/version_1" in said and "goes on at T = 40 from runs/version_0/checkpoints" in said
    assert f"its log until then is in {tmp_path / 'runs' / 'version_0'}" in said


# From Python


def fitted(folder: Path, logger: Any, trainer: Any = None) -> Path:
    """Where a script that makes its own trainer finds a run's files."""
    module = alone(T_max=20)
    trainer = trainer or pl.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=logger, max_epochs=-1, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, callbacks=[EnvStepsCheckpoint()],
    )  # fmt: skip
    trainer.fit(module, datamodule=FixedData(random_batch(module)))
    (checkpoint,) = (module.run_folder / "checkpoints").iterdir()
    assert checkpoint.name == "env_steps=20.ckpt"
    return module.run_folder


@pytest.mark.parametrize("make", [lambda _: False, lambda _: Tracker()], ids=["none", "a tracker"])
def test_scripts_without_a_loggers_folder_get_one_below_their_root(make: Any, tmp_path: Path) -> None:
    assert [fitted(tmp_path, make(tmp_path)) for _ in range(2)] == [tmp_path / "version_0", tmp_path / "version_1"]


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_scripts_get_their_loggers_folder_once(kind: Any, tmp_path: Path) -> None:
    assert fitted(tmp_path, kind(tmp_path, name="a")) == tmp_path / "a" / "version_0"
    assert fitted(tmp_path, kind(tmp_path, name="a")) == tmp_path / "a" / "version_1"
    assert fitted(tmp_path, kind(tmp_path, name="a", version="b")) == tmp_path / "a" / "b"
    assert fitted(tmp_path, kind(tmp_path, name="a", version="b")) == tmp_path / "version_0"


def test_one_trainer_has_one_folder(tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False)
    assert run_folder(trainer) == run_folder(trainer) == tmp_path / "version_0"
    assert run_folder(pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False)) == tmp_path / "version_1"


# On several ranks


@pytest.mark.slow
def test_ranks_agree_on_one_folder_and_a_teacher_is_stored_in_it(tmp_path: Path) -> None:
    """Started by torchrun, so that no rank is told by another; and rank 0 alone evaluates the teacher."""
    content = tiny(TEACHER, pole=pole())
    content["trainer"]["logger"] = [{"class_path": "test_run_folder.Tracker"}]
    words = ["--config", str(write(tmp_path / "tiny.yaml", content)), "--T_max=80"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *MODULE[1:]]
    paths = [str(Path(__file__).parent), str(REPOSITORY / "tests" / "support")]
    ended = subprocess.run(
        [*launch, "fit", *words],
        cwd=tmp_path, env=environment(PYTHONPATH=":".join(paths)), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    wanted = {"config.yaml", "metrics.csv", "checkpoints/env_steps=80.ckpt", "teacher/pole/certificate.json"}
    assert wanted <= files(tmp_path / "runs" / "version_0")
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.yaml", "runs"}
