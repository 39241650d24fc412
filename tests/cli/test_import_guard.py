"""What is imported on behalf of files: nothing for a checkpoint, and for configs only by permit where that is asked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
import torch
import yaml
from command_line import Run, callback, pole, tiny, write

from cdrl_pl.cli.import_guard import ImportRefusedError, check_imports

run, refused = command_line.run, command_line.refused
CHECKPOINT = callback("callbacks.EnvStepsCheckpoint", every=40)

CANARY = """
from pathlib import Path

import pytorch_lightning as pl

Path("imported").touch()


class Canary(pl.Callback):
    def __init__(self, *args, **kwargs):
        Path("made").touch()
"""


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A module that leaves a trace where it is imported, and the traces that are there."""
    (tmp_path / "canary.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "canary", raising=False)
    return lambda: [name for name in ("imported", "made") if (tmp_path / name).exists()]


def test_fault_21_names_in_a_checkpoint_import_nothing(
    run: Run, tmp_path: Path, canary: Callable[[], list[str]]
) -> None:
    config = write(tmp_path / "tiny.yaml", tiny(CHECKPOINT))
    path = Path(run("fit", "--config", config).trainer.log_dir or "") / "checkpoints" / "env_steps=80.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    hostile = {"_instantiator": "canary.Canary", "_class_path": "canary.Canary", "class_path": "canary.Canary"}
    checkpoint["hyper_parameters"] = {**hostile, "agents": hostile}
    checkpoint["datamodule_hyper_parameters"] = hostile
    torch.save(checkpoint, tmp_path / "hostile.ckpt")
    ended = run("fit", "--config", config, "--ckpt_path", tmp_path / "hostile.ckpt")
    assert ended.model.env_steps == {"pole": 120}
    assert canary() == []


# What a config may import


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"trainer": {"callbacks": [{"class_path": "canary.Canary"}]}}, "trainer.callbacks[0].class_path"),
        ({"trainer": {"callbacks": ["callbacks.Progress", "canary.Canary"]}}, "trainer.callbacks[1]"),
        ({"trainer": {"logger": {"class_path": "canary.sub.Canary"}}}, "trainer.logger.class_path"),
        ({"model": {"agents": {"pole": {"env": {"id": "canary:Canary-v0"}}}}}, "model.agents.pole.env.id"),
        ({"model": "other.yaml"}, "model names another file"),
        ({"trainer": "./other.json"}, "trainer names another file"),
    ],
)
def test_fault_29_a_config_that_imports_more_than_is_allowed_is_refused(
    part: dict[str, Any], named: str, refused: Callable[..., str], tmp_path: Path, canary: Callable[[], list[str]]
) -> None:
    config = write(tmp_path / "untrusted.yaml", {**tiny(), **part})
    text = refused("--config", config, "--imports", "callbacks,cdrl_pl")
    assert named in text and "--imports" in text
    assert canary() == []


def test_without_imports_a_config_is_code(run: Run, tmp_path: Path, canary: Callable[[], list[str]]) -> None:
    """The control: the same name is imported."""
    run("fit", "--config", write(tmp_path / "own.yaml", tiny(callback("canary.Canary"))))
    assert canary() == ["imported", "made"]


def test_a_config_that_imports_what_is_allowed_runs(run: Run, tmp_path: Path) -> None:
    ended = run("fit", "--config", write(tmp_path / "own.yaml", tiny(CHECKPOINT)), "--imports=callbacks")
    assert ended.model.env_steps == {"pole": 120}


@pytest.mark.parametrize("options", [(), ("--imports", "callbacks")])
def test_fault_29_a_config_that_would_run_python_is_refused(
    options: tuple[str, ...], refused: Callable[..., str], tmp_path: Path, canary: Callable[[], list[str]]
) -> None:
    text = yaml.safe_dump(tiny()) + "data: !!python/object/apply:canary.Canary []\n"
    (tmp_path / "hostile.yaml").write_text(text)
    assert "python/object/apply" in refused("--config", tmp_path / "hostile.yaml", *options)
    assert canary() == []


@pytest.mark.parametrize("path", ["/elsewhere", "../elsewhere", "teacher/../../elsewhere"])
@pytest.mark.parametrize("kind", ["CertificatedTeacher", "StoredAlignment"])
def test_fault_29_a_folder_outside_the_run_is_refused(
    path: str, kind: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    options = {"agent": "pole", "threshold": 1.0} if kind == "CertificatedTeacher" else {}
    config = tiny(callback(f"callbacks.{kind}", folder=path, **options))
    assert f"{kind}.folder is {path!r}" in refused("--config", write(tmp_path / "tiny.yaml", config))


@pytest.mark.parametrize("name", ["../pole", "a/b", "a.b", "", "type", "keys"])
def test_fault_28_a_name_that_cannot_be_a_folder_is_refused(
    name: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    text = refused("--config", write(tmp_path / "tiny.yaml", tiny(**{name: pole()})))
    assert f"model.agents names {name!r}" in text


def test_wrappers_with_keywords_are_class_paths_too(tmp_path: Path) -> None:
    file = tmp_path / "wrapped.yaml"
    file.write_text("env: {wrappers: [elsewhere.Wrapper: {times: 2}]}\n")
    with pytest.raises(ImportRefusedError, match=r"env.wrappers\[0\] is 'elsewhere.Wrapper'; --imports allows only"):
        check_imports([file], ["callbacks"])
    check_imports([file], ["elsewhere"])
