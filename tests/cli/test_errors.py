"""Mistakes in options and configs: named in one line, with the nearest option, before any worker starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import pytest
import pytorch_lightning as pl
from command_line import CONFIGS, Run, call, callback, edge, pole, tiny, write

run, build, refused = command_line.run, command_line.build, command_line.refused
CARTPOLE = CONFIGS / "teachers/cartpole.yaml"
CHECKPOINT = callback("callbacks.EnvStepsCheckpoint", every=40)
TEACHER = callback("callbacks.CertificatedTeacher", agent="alpha", threshold=1e9)
BOTH = {"alpha": pole(), "beta": pole()}


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--T_mx=5", "--T_max"),
        ("--wrokers=5", "--workers"),
        ("--model.T_mx=5", "--model.T_max"),
        ("--trainer.max_epoch=5", "--trainer.max_epochs"),
        ("--data.pool.copis=5", "copies"),
        ("--model.agents.cartpole.learner.lrr=5", "learner.lr"),
        ("--chkpt_path=5", "--ckpt_path"),
    ],
)
def test_a_mistyped_option_names_the_nearest(option: str, meant: str, refused: Callable[..., str]) -> None:
    assert refused("--config", CARTPOLE, option).endswith(f"; did you mean {meant}?")


def full() -> dict[str, Any]:
    """A config with something of everything."""
    return tiny(CHECKPOINT, TEACHER, transfers=[edge(temperature=2.0, alignment={"hidden": 8})], **BOTH)


def walk(config: Any, path: str) -> Any:
    for key in filter(None, path.split(".")):
        config = config[int(key) if key.isdigit() else key]
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "key", "typed", "meant"),
    [
        ("", "seed_everything", "seed_everyting", "seed_everything"),
        ("", "trainer", "trainr", "trainer.accelerator"),
        ("model", "T_max", "T_mx", "model.T_max"),
        ("model", "agents", "agent", "model.agents"),
        ("model.agents.alpha", "network", "netwrk", "network"),
        ("model.agents.alpha.learner", "lr", "lrr", "learner.lr"),
        ("model.agents.alpha.env", "id", "idd", "id"),
        ("model.transfers.0", "student", "studnt", "student"),
        ("model.transfers.0.alignment", "hidden", "hiden", "alignment.hidden"),
        ("trainer", "accelerator", "acelerator", "trainer.accelerator"),
        ("trainer.callbacks.0.init_args", "every", "evry", "every"),
        ("trainer.callbacks.1.init_args", "threshold", "treshold", "threshold"),
        ("data", "pool", "pol", "data.pool"),
        ("data.pool", "workers", "wrkers", "workers"),
    ],
)
def test_a_mistyped_name_in_a_config_names_the_nearest(
    where: str, key: str, typed: str, meant: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    config = full()
    config["model"]["agents"]["alpha"]["learner"]["lr"] = 1e-3
    inner = walk(config, where)
    inner[typed] = inner.pop(key)
    text = refused("--config", write(tmp_path / "tiny.yaml", config))
    assert typed in text and f"; did you mean {meant}" in text
    assert os.listdir() == ["tiny.yaml"]  # no run folder is left


def test_a_mistyped_callback_names_the_nearest(refused: Callable[..., str], tmp_path: Path) -> None:
    config = write(tmp_path / "tiny.yaml", tiny(callback("callbacks.EnvStepCheckpoint")))
    assert refused("--config", config).endswith(
        "no cdrl_pl.callbacks.EnvStepCheckpoint; did you mean EnvStepsCheckpoint?"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("model.agents.alpha.env.id", "CartPol-v1", ["agents.alpha", "'CartPol-v1'", "nearest", "'CartPole-v1'"]),
        ("model.agents.alpha.env.frame_skip", 4, ["agents.alpha", "env.frame_skip is 4", "not an Atari game"]),
        ("model.agents.alpha.network.trunk", "conv", ["agents.alpha", "network.trunk is conv", "mlp"]),
        ("model.agents.alpha.network.trunk", "mpl", ["trunk", "mlp", "'mpl'"]),
        ("model.agents.alpha.network.depth", 0, ["network.depth is 0", "1 or more"]),
        ("model.agents.alpha.learner.lam", 1.5, ["learner.lam is 1.5", "from 0 to 1"]),
        ("model.agents.alpha.learner.lr", "abc", ["learner.lr", "float", "abc"]),
        ("model.agents.alpha", {"learner": {}}, ["agents.alpha", "needs an env or a certificate"]),
        ("model.agents.alpha", {"certificate": "nowhere"}, ["agents.alpha", "certificate.json", "cannot be read"]),
        ("model.agents", {}, ["model.agents is empty"]),
        ("model.transfers.0.T2", 39, ["alpha-beta", "T2 is 39", "T1 is 40"]),
        ("model.transfers.0.stop", 79, ["alpha-beta", "stop is 79", "T2"]),
        ("model.transfers.0.stop", "nver", ["stop", "'never'", "nver"]),
        ("model.transfers.0.temperature", 0, ["alpha-beta", "temperature is 0", "above 0"]),
        ("model.transfers.0.weight", -1, ["alpha-beta", "weight is -1", "0 or more"]),
        ("model.transfers.0.weight", {"steps": 0}, ["weight.steps is 0", "1 or more"]),
        ("model.transfers.0.weight", {"shape": "step"}, ["shape", "'linear'", "'wean'", "step"]),
        ("model.transfers.0.alarm", {"every": 0}, ["alarm.every is 0", "1 or more"]),
        ("model.agents.beta.teacher_weights", {"by": "best"}, ["by", "'fixed', 'value'", "best"]),
        ("model.transfers.0.teacher", "gamma", ["transfers[0].teacher", "'gamma'", "alpha, beta"]),
        ("model.transfers.0", {"student": "beta"}, ["model.transfers", "required: teacher"]),
        ("model.T_max", 0, ["model.T_max is 0", "1 or more"]),
        ("model.preset", "papr", ["preset", "'papr'", "paper, code"]),
        ("data.pool.workers", 0, ["pool.workers is 0", "1 or more"]),
        ("trainer.callbacks.0.init_args.every", 0, ["EnvStepsCheckpoint.every is 0", "1 or more"]),
        ("trainer.callbacks.1.init_args", {"agent": "alpha"}, ["CertificatedTeacher", "required: threshold"]),
        ("trainer.accelerator", "warp", ["trainer.accelerator is 'warp'; it must be auto, cpu"]),
        ("trainer.devices", 0, ["trainer (", "devices 0", "not a valid input"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    where: str, value: Any, says: list[str], refused: Callable[..., str], tmp_path: Path
) -> None:
    config = full()
    outer, _, key = where.rpartition(".")
    inner = walk(config, outer)
    inner[int(key) if key.isdigit() else key] = value
    text = refused("--config", write(tmp_path / "tiny.yaml", config))
    assert [part for part in says if part not in text] == [], text
    assert os.listdir() == ["tiny.yaml"]


def test_a_callback_about_an_unknown_agent_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    wrong = callback("callbacks.CertificatedTeacher", agent="gamma", threshold=0)
    text = refused("--config", write(tmp_path / "tiny.yaml", tiny(wrong)))
    assert text == "CertificatedTeacher.agent is 'gamma'; it must be one of pole"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "nowhere.yaml"], ["does not exist", "nowhere.yaml"]),
        ([], ["--config", "such as quickstart"]),
        (["--config", CARTPOLE, "--T_max"], ["--model.T_max", "expected one argument"]),
        (["--config", CARTPOLE, "--T_max=abc"], ["model.T_max", "int", "abc"]),
        (["--config", CARTPOLE, "--precision=bf17"], ["trainer.precision", "bf16-mixed", "bf17"]),
        (["--config", CARTPOLE, "more"], ["'more'"]),
        (["--config", CARTPOLE, "--ckpt_path=nowhere.ckpt"], ["ckpt_path", "nowhere.ckpt", "no file"]),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(
    arguments: list[str | Path], says: list[str], refused: Callable[..., str]
) -> None:
    text = refused(*arguments)
    assert [part for part in says if part not in text] == [], text
    assert os.listdir() == []


def test_a_refusal_names_the_command_whose_help_to_read(refused: Callable[..., str]) -> None:
    """Which command is named, ``refused`` itself checks."""
    assert "T_mx" in refused("--config", CARTPOLE, "--T_mx=5", command="validate")


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--model.T_mx=5", "--model.agents.cartpole.env.id=CartPol-v1"])
def test_a_refusal_is_all_that_is_printed(option: str, tmp_path: Path) -> None:
    answer = call("fit", "--config", CARTPOLE, option, cwd=tmp_path)
    assert answer.returncode == 2 and answer.stdout == "" and len(answer.stderr.splitlines()) == 2
    assert answer.stderr.startswith("error: ") and os.listdir(tmp_path) == []


class Raising(pl.Callback):
    """Breaks while the run is under way."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        raise ValueError("broken on purpose")


def test_an_error_while_training_keeps_its_traceback(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken on purpose"):
        run("fit", "--config", write(tmp_path / "tiny.yaml", tiny(callback(f"{__name__}.Raising"))))


class Faulty(pl.Callback):
    """Has a fault of its own where it is made."""

    def __init__(self) -> None:
        self.value = nowhere_defined  # type: ignore[name-defined] # noqa: F821


def test_a_fault_in_a_callback_keeps_its_traceback(build: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere_defined"):
        build("fit", "--config", write(tmp_path / "tiny.yaml", tiny(callback(f"{__name__}.Faulty"))))
