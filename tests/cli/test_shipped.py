"""What comes with the program: by bare names, and from the wheel in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import command_line
import pytest
import yaml
from command_line import CONFIGS, REPOSITORY, Run, environment, tiny, write

from cdrl_pl.cli.config_files import take_files
from cdrl_pl.experiment.plan import read_experiment
from cdrl_pl.shipped import config_file, names

run, build, refused = command_line.run, command_line.build, command_line.refused
Refused = Callable[..., str]


def test_every_shipped_config_has_a_name_of_its_own() -> None:
    every = set(CONFIGS.rglob("*.yaml"))
    experiments = {path for path in every if path.parent.name == "experiments"}
    sweeps = {path for path in every if path.parent.name == "tuning"}
    assert set(names(experiments=True).values()) == experiments and set(names(tuning=True).values()) == sweeps
    assert set(names().values()) == every - experiments - sweeps and sweeps
    assert names()["quickstart"] == CONFIGS / "quickstart.yaml" and names()["online_1"].parent.name == "paper"
    assert names()["ground_truth_cartpole"].parent.name == "ground_truth" and "cartpole" not in names()


def test_a_bare_name_is_a_shipped_config_and_a_path_is_always_a_path(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    assert config_file("quickstart") == str(CONFIGS / "quickstart.yaml")
    for path in ("./quickstart", "quickstart.yaml", "configs/quickstart.yaml", "-", "{model: {}}", "nowhere"):
        assert config_file(path) == path
    (tmp_path / "quickstart").mkdir()
    assert config_file("quickstart") == str(CONFIGS / "quickstart.yaml")  # a folder is no config
    shutil.rmtree(tmp_path / "quickstart")
    (tmp_path / "quickstart").write_text("")
    assert config_file("quickstart") == "quickstart"  # a file that is there wins


@pytest.mark.parametrize("words", [["--config", "quickstart"], ["--config=quickstart"], ["-cquickstart"]])
def test_the_command_line_takes_a_bare_name(words: list[str]) -> None:
    assert take_files(["fit", *words, "--T_max=5"]) == ([str(CONFIGS / "quickstart.yaml")], ["fit", "--T_max=5"])


def test_imports_are_checked_in_a_config_by_its_name(refused: Refused) -> None:
    assert "--imports allows only what is in torch" in refused("--config=teachers_cartpole", "--imports=torch")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("quikstart", "quickstart"),
        ("cartpole", "ground_truth_cartpole or teachers_cartpole"),
        ("kd_polcy", "kd_policy"),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_nearest(name: str, near: str, refused: Refused) -> None:
    assert refused("--config", name).startswith(f"config file {name!r} does not exist; did you mean {near}")


def test_shipped_teachers_and_alignments_are_found_from_any_folder_and_own_ones_come_first(
    build: Run, tmp_path: Path
) -> None:
    built = build("fit", "--config=ground_truth_cartpole", "--trainer.accelerator=cpu")
    stored = built.config.fit.model
    assert stored.agents["expert"].certificate == str(REPOSITORY / "teachers/cartpole")
    file = "alignments/cartpole-swapped/alignment.safetensors"
    assert stored.transfers[0].alignment.file == str(REPOSITORY / file)
    shutil.copytree(REPOSITORY / "teachers/cartpole", tmp_path / "teachers/cartpole")
    built = build("fit", "--config=ground_truth_cartpole", "--trainer.accelerator=cpu")
    assert built.config.fit.model.agents["expert"].certificate == "teachers/cartpole"
    shutil.rmtree(tmp_path / "teachers")
    assert build("test", "--teacher=teachers/cartpole", "--trainer.accelerator=cpu").model.agents["teacher"].game


def test_an_own_config_may_name_shipped_teachers_and_one_that_is_nowhere_is_looked_for_there(
    build: Run, refused: Refused, tmp_path: Path
) -> None:
    agents = {"expert": {"certificate": "teachers/cartpole"}, "pole": command_line.pole()}
    path = write(tmp_path / "own.yaml", tiny(**agents))
    assert build("fit", "--config", path)
    agents["expert"]["certificate"] = "teachers/nowhere"
    assert refused("--config", write(path, tiny(**agents))).endswith(f"looked in {tmp_path}, not shipped")


@pytest.mark.parametrize("path", names(experiments=True).values(), ids=lambda path: path.stem)
def test_a_shipped_experiment_finds_its_configs_from_any_folder(path: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    files = [Path(file) for arm in read_experiment(path).arms for file in arm.config]
    assert files and all(file.is_file() and file.is_relative_to(CONFIGS) for file in files)


@pytest.mark.slow
def test_the_wheel_trains_by_its_script_in_an_empty_folder(tmp_path: Path) -> None:
    source, empty = tmp_path / "source", tmp_path / "empty"
    empty.mkdir()
    for name in ("cdrl_pl", "callbacks", "configs", "teachers", "alignments"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)

    def call(*words: str | Path, cwd: Path, **variables: str) -> str:
        known = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
        done = subprocess.run(
            list(map(str, words)), cwd=cwd, env={**known, **variables}, capture_output=True, text=True
        )
        assert done.returncode == 0, (words, done.stderr[-3000:])
        return done.stdout + done.stderr

    call(
        sys.executable,
        "-c",
        f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})",
        cwd=source,
    )
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    (wheel,) = tmp_path.glob("*.whl")
    call(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-compile",
        wheel,
        cwd=empty,
    )
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + os.linesep)  # what it depends on
    shutil.rmtree(source)

    script = tmp_path / "env/bin/cdrl"
    assert "usage: cdrl {fit," in call(script, "--help", cwd=empty)
    fast = ("--T_max=320", "--trainer.accelerator=cpu", "--copies=4")
    call(script, "fit", "--config", "quickstart", *fast, cwd=empty)
    assert {path.name for path in empty.iterdir()} == {"runs"}
    saved = yaml.safe_load((empty / "runs/version_0/config.yaml").read_text())
    paths = [callback["class_path"] for callback in saved["trainer"]["callbacks"]]
    assert "cdrl_pl.callbacks.EnvStepsCheckpoint" in paths and (empty / "runs/version_0/metrics.csv").is_file()
    located = "from cdrl_pl.shipped import located; print(located('teachers/cartpole'))"
    teacher = Path(call(python, "-c", located, cwd=empty).strip())
    assert teacher == site / "cdrl_pl/shipped/teachers/cartpole" and (teacher / "certificate.json").is_file()
