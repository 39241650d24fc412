"""The program from Python: a small surface, the command line's defaults, and every way in which a script is read."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from command_line import REPOSITORY, environment
from nbclient import NotebookClient
from wide_cartpole import CARTPOLE

import cdrl_pl
from cdrl_pl import Agent, Collaboration, Env, Learner, Network, Pool, RolloutDataModule, Trainer, Transfer
from cdrl_pl.cli.trainer import CALLBACKS

SCRIPT = """\
from cdrl_pl import Agent, Collaboration, Env, Network, Pool, RolloutDataModule, Trainer

pole = Agent(Env("CartPole-v1", max_episode_steps=12), Network("mlp", depth=1, hidden=8, lstm=0))
module = Collaboration({"pole": pole}, T_max=120, log_every=40)
data = RolloutDataModule(Pool(workers=1, copies=2, steps=5), evaluation_episodes=16)
trainer = Trainer(accelerator="cpu")
trainer.fit(module, datamodule=data)
trainer.test(module, datamodule=data)
print("learned until", module.clock, "in", module.run_folder.name, len(module.evaluator.scores["pole"]))
"""
SAID = "learned until 120 in version_0 2"


def python(folder: Path, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment(),
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
    )


# The surface


def test_every_public_name_is_there_and_the_stub_has_the_same() -> None:
    names = {name for name in cdrl_pl.__all__ if getattr(cdrl_pl, name) is not None}
    stub = (REPOSITORY / "cdrl_pl" / "__init__.pyi").read_text()
    listed = set(yaml.safe_load("[" + stub.partition("__all__ = [")[2]))
    assert names == set(cdrl_pl.__all__) == listed and set(cdrl_pl.__all__) <= set(dir(cdrl_pl))


@pytest.mark.parametrize("name", sorted(cdrl_pl._PUBLIC))
def test_the_stub_names_what_is_imported(name: str) -> None:
    module, _, attribute = cdrl_pl._PUBLIC[name].partition(":")
    assert getattr(cdrl_pl, name) is getattr(importlib.import_module(module), attribute)
    assert f"from {module} import {attribute} as {name}\n" in (REPOSITORY / "cdrl_pl" / "__init__.pyi").read_text()


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cdrl_pl' has no attribute 'Agnet'"):
        cdrl_pl.Agnet  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_lightning() -> None:
    code = "import sys, cdrl_pl; print(sorted({'torch', 'pytorch_lightning'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer.stderr


# The trainer


def test_a_trainer_has_the_command_lines_callbacks_and_what_is_given_in_their_place(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path)
    found = {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
    assert {path.rpartition(".")[2] for path in CALLBACKS} <= found
    quiet = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
    )
    found = {type(callback).__name__ for callback in quiet.callbacks}  # type: ignore[attr-defined]
    assert not found & {"Progress", "EnvStepsCheckpoint"} and "DistillationSchedule" in found


def test_two_trainers_of_one_process_write_into_two_folders(tmp_path: Path) -> None:
    network = Network("mlp", depth=1, hidden=8, lstm=0)
    folders = []
    for _ in range(2):
        task = Env(CARTPOLE, max_episode_steps=12)
        agents = {"alpha": Agent(task, network, Learner()), "beta": Agent(task, network)}
        module = Collaboration(agents, [Transfer("alpha", "beta", T1=10, T2=20, stop="never")], T_max=40, log_every=10)
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path)
        trainer.fit(module, datamodule=RolloutDataModule(Pool(workers=1, copies=2, steps=5)))
        assert module.phases() == {"alpha-beta": "distil"}  # the schedules came by themselves
        folders.append(module.run_folder)
    assert [folder.name for folder in folders] == ["version_0", "version_1"]
    assert all((folder / "metrics.csv").is_file() and list(folder.glob("checkpoints/*")) for folder in folders)


# Every way to read a script


@pytest.mark.slow
@pytest.mark.parametrize("way", ["file", "standard input", "command"])
def test_a_script_without_a_guard_trains(tmp_path: Path, way: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = {"file": ["script.py"], "standard input": ["-"], "command": ["-c", SCRIPT]}[way]
    answer = python(tmp_path, *words, given=SCRIPT if way == "standard input" else None)
    assert answer.returncode == 0 and SAID in answer.stdout, answer.stderr
    assert "Warning" not in answer.stderr, answer.stderr
    assert answer.stdout.count("learned") == 1 and [p.name for p in (tmp_path / "runs").iterdir()] == ["version_0"]


@pytest.mark.slow
def test_an_environment_that_a_guarded_script_registers_is_known_to_its_workers(tmp_path: Path) -> None:
    indented = "".join(f"    {line}" for line in SCRIPT.splitlines(keepends=True))
    text = (
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n\n\n"
        "class Mine(CartPoleEnv):\n    pass\n\n\n"
        f"gymnasium.register('Mine-v0', Mine)\n\nif __name__ == '__main__':\n{indented}"
    )
    (tmp_path / "script.py").write_text(text.replace("CartPole-v1", "Mine-v0"))
    answer = python(tmp_path, "script.py")
    assert answer.returncode == 0 and SAID in answer.stdout, answer.stderr


@pytest.mark.slow
def test_a_script_that_trains_outside_of_its_guard_is_told_so_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + "\nif __name__ == '__main__':\n    print('done')\n")
    answer = python(tmp_path, "script.py")
    assert answer.returncode != 0 and 'put what it does under if __name__ == "__main__":' in answer.stderr
    assert answer.stderr.count("Traceback") <= 1, answer.stderr


@pytest.mark.slow
def test_a_notebook_trains(tmp_path: Path) -> None:
    """A real kernel, and all of it in one cell after the other."""
    cells = [nbformat.v4.new_code_cell(part) for part in SCRIPT.split("\n\n")]
    book = nbformat.v4.new_notebook(cells=cells)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(output.get("text", "") for output in book.cells[-1].outputs)
    assert SAID in printed and (tmp_path / "runs" / "version_0" / "scores.json").is_file()


@pytest.mark.slow
def test_ipython_trains(tmp_path: Path) -> None:
    answer = python(tmp_path, "-m", "IPython", "--no-banner", "--colors=NoColor", given=SCRIPT)
    assert answer.returncode == 0 and SAID in answer.stdout, answer.stdout + answer.stderr
