"""Checkpoints by env_steps: when they are saved, and what becomes of them when a run ends in the middle of it."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from command_line import call, callback, edge, pole, tiny, write
from graphs import FixedData, alone, fit, random_batch

import callbacks.checkpoint
from callbacks import EnvStepsCheckpoint
from cdrl_pl.storage.atomic import write_whole


def names(folder: Path) -> list[str]:
    found = (folder / "checkpoints").glob("*") if (folder / "checkpoints").exists() else []
    return sorted((p.name for p in found), key=lambda name: int(name.split("=")[1].split(".")[0]))


def save_by(folder: Path, every: int, keep: int = 99, T_max: int = 110, **options: Any) -> EnvStepsCheckpoint:
    watch, module = EnvStepsCheckpoint(every, keep), alone(T_max=T_max)
    fit(module, FixedData(random_batch(module)), folder, watch, **options)
    return watch


@pytest.mark.parametrize(
    ("every", "T_max", "expected"),
    [
        (25, 110, [30, 50, 80, 100, 110]),
        (50, 100, [50, 100]),
        (1_000, 40, [40]),
        (4, 30, [10, 20, 30]),
        (10, 20, [10, 20]),
    ],
)
def test_a_checkpoint_is_saved_at_every_crossing_and_at_the_end(
    tmp_path: Path, every: int, T_max: int, expected: list[int]
) -> None:
    """Rollouts have 10 decisions."""
    save_by(tmp_path, every, T_max=T_max)
    assert names(tmp_path) == [f"env_steps={clock}.ckpt" for clock in expected]


def test_a_checkpoint_is_named_by_the_clock_in_it(tmp_path: Path) -> None:
    save_by(tmp_path, 25)
    for path in (tmp_path / "checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        assert path.stem == f"env_steps={checkpoint['collaboration']['env_steps']['beta']}"


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int) -> None:
    save_by(tmp_path, 25, keep)
    assert names(tmp_path) == [f"env_steps={clock}.ckpt" for clock in [30, 50, 80, 100, 110][-keep:]]


def test_an_old_checkpoint_is_deleted_only_once_the_newer_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []
    inner = pl.Trainer.save_checkpoint

    def fail_at_80(self: pl.Trainer, path: Path, *args: Any, **kwargs: Any) -> None:
        saves.append(path)
        if "=80" in str(path):
            raise OSError("no space left")
        inner(self, path, *args, **kwargs)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", fail_at_80)
    with pytest.raises(OSError, match="no space left"):
        save_by(tmp_path, 25, keep=1)
    assert names(tmp_path) == ["env_steps=50.ckpt"] and len(saves) == 3


def test_a_resumed_run_goes_on_deleting_old_checkpoints(tmp_path: Path) -> None:
    save_by(tmp_path, 25, keep=2, T_max=50)
    assert names(tmp_path) == ["env_steps=30.ckpt", "env_steps=50.ckpt"]
    save_by(tmp_path, 25, keep=2, T_max=80, ckpt_path=tmp_path / "checkpoints" / "env_steps=50.ckpt")
    assert names(tmp_path) == ["env_steps=50.ckpt", "env_steps=80.ckpt"]


def test_a_resumed_run_does_not_save_what_it_was_resumed_from(tmp_path: Path) -> None:
    save_by(tmp_path, 25, T_max=50)
    before = (tmp_path / "checkpoints" / "env_steps=50.ckpt").stat().st_mtime_ns
    save_by(tmp_path, 25, T_max=50, ckpt_path=tmp_path / "checkpoints" / "env_steps=50.ckpt")
    assert (tmp_path / "checkpoints" / "env_steps=50.ckpt").stat().st_mtime_ns == before


def test_fault_09_a_run_that_is_told_to_end_saves_where_it_stands(tmp_path: Path) -> None:
    class End(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            trainer._signal_connector.received_sigterm = module.clock == 40

    module = alone()
    with pytest.raises(SystemExit):
        fit(module, FixedData(random_batch(module)), tmp_path, EnvStepsCheckpoint(1_000), End())
    assert names(tmp_path) == ["env_steps=40.ckpt"]


@pytest.mark.parametrize("option", ["every", "keep"])
def test_fault_28_a_checkpoint_setting_below_1_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"EnvStepsCheckpoint.{option} is 0; it must be 1 or more"):
        EnvStepsCheckpoint(**{option: 0})


# Saving that is interrupted


def loads(folder: Path) -> list[int]:
    """The clocks in all checkpoints; no other file is there."""
    found = [torch.load(path, weights_only=True) for path in (folder / "checkpoints").iterdir()]
    return sorted(checkpoint["collaboration"]["env_steps"]["beta"] for checkpoint in found)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell started these tests in the background, with that signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_fault_13_a_signal_while_saving_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals
) -> None:
    inner, saves = torch.save, []

    def save(*args: Any, **kwargs: Any) -> None:
        saves.append(args)
        if len(saves) == 2:
            os.kill(os.getpid(), sent)
        inner(*args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    save_by(tmp_path, 25)
    assert loads(tmp_path) == [30, 50]  # it ends at that batch, with what it was saving whole


class Killed(BaseException):
    """In the place of SIGKILL."""


def test_fault_13_a_run_that_dies_while_saving_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, flushed = os.fsync, []

    def fsync(handle: int) -> None:
        flushed.append(handle)
        if len(flushed) == 3:
            raise Killed
        inner(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "unlink", lambda path: None)  # a process that is killed cleans nothing up
    with pytest.raises(Killed):
        save_by(tmp_path, 25)
    (rest,) = (tmp_path / "checkpoints").glob(".*")
    rest.rename(tmp_path / "rest")
    assert loads(tmp_path) == [30, 50]


def test_fault_16_a_full_disk_ends_the_run_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_full_disk(path: Path, content: memoryview) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if "=80" in path.name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            write_whole(path, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(callbacks.checkpoint, "write_whole", on_a_full_disk)
    with pytest.raises(OSError, match=r"File too large: '.*env_steps=80\.ckpt'"):
        save_by(tmp_path, 25)
    assert loads(tmp_path) == [30, 50]


def test_fault_17_a_folder_that_cannot_be_written_ends_the_run_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied", "a temporary name")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*env_steps=30\.ckpt'"):
        save_by(tmp_path, 25)


KILL_AT = """
import os
import signal

import pytorch_lightning as pl


class KillAt(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if module.clock == int(os.environ.get("KILL_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_fault_14_a_run_that_was_killed_in_every_phase_equals_one_that_was_not(tmp_path: Path) -> None:
    """Killed before T1, between T1 and T2, and after T2; each time it loses what came after the last checkpoint."""
    (tmp_path / "kill_at.py").write_text(KILL_AT)
    names = ("callbacks.AlignmentSchedule", "callbacks.DistillationSchedule", "kill_at.KillAt")
    saver = callback("callbacks.EnvStepsCheckpoint", every=20)
    transfers = [edge(alignment={"hidden": 8, "depth": 1, "lr": 1e-2})]
    agents = {"alpha": pole(lr=1e-2), "beta": pole(lr=1e-2)}
    config = write(tmp_path / "tiny.yaml", tiny(*map(callback, names), saver, transfers=transfers, **agents))

    def go(root: str, kill_at: int, *options: str | Path) -> dict[str, Any]:
        folder = f"--trainer.default_root_dir={tmp_path / root}"
        ended = call(
            "fit", "--config", config, folder, *options,
            cwd=tmp_path, PYTHONPATH=str(tmp_path), KILL_AT=str(kill_at),
        )  # fmt: skip
        assert ended.returncode == (-signal.SIGKILL if kill_at else 0), ended.stderr[-3000:]
        newest = max((tmp_path / root).rglob("*.ckpt"), key=lambda path: int(path.stem.split("=")[1]))
        return {"path": newest, **torch.load(newest, weights_only=True)}

    whole, found, resume = go("whole", 0), {}, ()
    for kill_at, saved in ((30, 20), (70, 60), (110, 100), (0, 120)):
        found = go("killed", kill_at, *resume)
        assert found["collaboration"]["env_steps"] == {"alpha": saved, "beta": saved}
        resume = ("--ckpt_path", found["path"])
    assert all(torch.equal(v, whole["state_dict"][k]) for k, v in found["state_dict"].items())
    assert str(found["optimizer_states"]) == str(whole["optimizer_states"])
    assert str(found["collaboration"]["transfers"]) == str(whole["collaboration"]["transfers"])
