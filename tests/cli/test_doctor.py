"""The doctor: what it finds by numbers, and that it refuses what ``fit`` would, and nothing else."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import command_line
import pytest
from command_line import REPOSITORY, Run, callback, pole, tiny, write

from cdrl_pl.cli import doctor
from cdrl_pl.cli.checkup import (
    FAILS,
    OK,
    WARNING,
    check_checkpoints,
    check_cores,
    check_descriptors,
    check_shared_memory,
    check_writing,
)
from cdrl_pl.cli.main import RUN_VERSION, restored

run = command_line.run


# By numbers


@pytest.mark.parametrize(
    ("workers", "agents", "cores", "best", "state", "change"),
    [
        (2, 1, 2, 2, OK, ""),
        (2, 2, 1, 1, OK, ""),  # each has one: there are no fewer
        (8, 2, 4, 2, WARNING, "--workers 2"),
        (2, 2, 16, 4, WARNING, "set 4"),
        (8, 1, 16, 8, OK, ""),
        (4, 1, 64, 4, OK, ""),  # a small task keeps no more busy
    ],
)
def test_workers_are_enough_and_not_more_than_cores(
    workers: int, agents: int, cores: int, best: int, state: str, change: str
) -> None:
    found = check_cores(workers, agents, cores, best)
    assert found.state == state and change in found.said


@pytest.mark.parametrize(
    ("blocks", "state"),
    [
        ([], OK),
        ([40, 60], OK),
        ([40, 61], FAILS),  # each fits alone: they would be made there, and end the run once they are written
        ([40, 101], WARNING),  # Python makes the second elsewhere
        ([101, 60, 60], FAILS),
    ],
)
def test_shared_memory_is_counted_block_by_block(blocks: list[int], state: str) -> None:
    found = check_shared_memory(blocks, 100, Path("/dev/shm"), Path("/tmp"))
    assert found.state == state and ("--copies" in found.said) == (state != OK)


def test_open_files_are_compared_with_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (10, 104))
    assert check_descriptors(10).state == OK  # 64 + 4 x 10
    assert check_descriptors(11).state == FAILS
    monkeypatch.setattr(resource, "getrlimit", lambda what: (10, resource.RLIM_INFINITY))
    assert check_descriptors(10**6).state == OK


def test_the_disk_must_hold_every_checkpoint_that_is_kept() -> None:
    assert check_checkpoints(3, 100, 300).state == OK
    assert check_checkpoints(3, 100, 299).state == FAILS


def test_a_folder_is_written_to_and_not_believed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert check_writing(tmp_path / "new" / "runs").state == OK
    found = check_writing(tmp_path / "file" / "runs")
    assert found.state == FAILS and "default_root_dir" in found.said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_package_that_is_too_old_is_named() -> None:
    assert doctor.check_versions(["numpy>=1", "jsonargparse[signatures]>=4"]).state == OK
    found = doctor.check_versions(["numpy>=1", "gymnasium>=99"])
    assert found.state == FAILS and 'pip install "gymnasium>=99"' in found.said
    assert doctor.check_versions([]).state == WARNING


# A run


def ask(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and of every line its state and text, by what it is about."""
    capsys.readouterr()
    code = doctor.main([str(argument) for argument in arguments])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1]]
    return code, {rest[:14].strip(): (state, rest[15:]) for state, rest in lines}


def test_the_machine_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, found = ask(capsys)
    assert code == 0 and FAILS not in {state for state, _ in found.values()}
    assert {"versions", "emulator", "cores", "open files", "shared memory", "accelerator", "writing"} == {*found}


def test_a_run_that_can_begin_is_left_unbegun(capsys: pytest.CaptureFixture[str], run: Run, tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny())
    before = dict(os.environ)
    code, found = ask(capsys, "--config", config, "--trainer.default_root_dir", "elsewhere")
    assert code == 0 and found["config"][0] == OK
    assert "elsewhere" in found["writing"][1]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    assert os.environ.get(RUN_VERSION) == before.get(RUN_VERSION)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.T_mx=3", "did you mean --model.T_max?"),
        ("--workers=1000000", "pool.workers"),
        ("--precision=64", "trainer.precision"),
        ("--trainer.accelerator=mps", "accelerator mps"),
        ("--model.agents.pole.env.id=Nowhere-v0", "Nowhere-v0"),
    ],
)
def test_what_fit_refuses_fails(
    capsys: pytest.CaptureFixture[str], run: Run, tmp_path: Path, option: str, said: str
) -> None:
    code, found = ask(capsys, "--config", write(tmp_path / "tiny.yaml", tiny()), option)
    assert code == 1 and found["config"][0] == FAILS and said in found["config"][1]


def test_what_is_only_seen_once_a_run_is_set_up_fails(
    capsys: pytest.CaptureFixture[str], run: Run, tmp_path: Path
) -> None:
    wrong = callback("callbacks.CertificatedTeacher", agent="nobody", threshold=1)
    code, found = ask(capsys, "--config", write(tmp_path / "tiny.yaml", tiny(wrong)))
    assert code == 1 and "CertificatedTeacher.agent is 'nobody'" in found["config"][1]


def test_a_damaged_teacher_fails(capsys: pytest.CaptureFixture[str], run: Run, tmp_path: Path) -> None:
    shipped = next(path.parent for path in sorted((REPOSITORY / "teachers").rglob("certificate.json")))
    shutil.copytree(shipped, teacher := tmp_path / "teacher")
    frozen = {"certificate": str(teacher)}
    config = write(tmp_path / "tiny.yaml", tiny(pole=pole(), known=frozen))
    code, found = ask(capsys, "--config", config)
    assert code == 0 and "certificates of known" in found["teachers"][1]
    content = bytearray((teacher / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (teacher / "weights.safetensors").write_bytes(content)
    code, found = ask(capsys, "--config", config)
    assert code == 1 and "weights.safetensors" in found["config"][1]


@pytest.mark.slow
def test_the_size_of_a_checkpoint_is_that_of_one(run: Run, tmp_path: Path) -> None:
    """As ``fit`` writes it; a file of this network is most of all weights, and Adam's two numbers of each."""
    agent = pole()
    agent["network"] = {"trunk": "mlp", "depth": 1, "hidden": 128, "lstm": 128}
    config = write(tmp_path / "tiny.yaml", tiny(pole=agent))
    with restored():
        rehearsal, _ = doctor.rehearse(["--config", str(config)], str(tmp_path / "rehearsal"))
        assert rehearsal is not None
    said = doctor.checkpoint_bytes(rehearsal.model)
    ended = run("fit", "--config", config)
    written = (Path(ended.trainer.default_root_dir) / "checkpoints" / "env_steps=120.ckpt").stat().st_size
    assert said == pytest.approx(written, rel=0.1)
