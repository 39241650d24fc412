"""Every file in configs/ parses, starts, trains a few batches, and says at its head what it is."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import command_line
import pytest
import torch
import yaml
from command_line import CONFIGS, Run

from cdrl_pl.certificate import save_certificate
from cdrl_pl.envs import EnvConfig, describe
from cdrl_pl.evaluation import Score
from cdrl_pl.networks import NetworkConfig, PolicyNetwork

run = command_line.run
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if "experiments" not in path.parts)  # those: test_experiment
GAMES = {"pong": "Pong-2017", "bowling": "Bowling-2017"}  # of certificated teachers, by the name of their folder


def stored_teachers(config: dict[str, Any], below: Path) -> None:
    """Teachers that know nothing, in the folders that the config names."""
    for agent in config["model"]["agents"].values():
        if folder := agent.get("certificate"):
            env = EnvConfig(GAMES[Path(folder).name.split("_")[0]])
            spec = describe(env)
            network = PolicyNetwork(NetworkConfig(channels=4, lstm=8), spec.obs_shape, spec.num_actions)
            score = Score(1, 0.0, 0.0, 1.0, (0.0,), "sampled", 0, 0)
            save_certificate(below / folder, network, env, spec, {"sampled": score}, {})


def test_there_are_configs() -> None:
    assert {"quickstart.yaml", "cartpole.yaml"} <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_says_at_its_head_what_it_is(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    assert first.startswith("# ") and len(first) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_trains_through_every_phase(path: Path, run: Run, tmp_path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    stored_teachers(config, tmp_path)
    shrunk = ["--workers=1", "--copies=2", "--data.pool.steps=5", "--data.learner_threads=1", "--model.log_every=10"]
    schedule = ["--T1=10", "--T2=20", "--stop=30", "--T_max=40"]
    ended = run("fit", "--config", path, *shrunk, *schedule, "--trainer.accelerator=cpu", "--trainer.devices=1")
    assert set(ended.model.env_steps) <= set(config["model"]["agents"])
    assert set(ended.model.env_steps.values()) == {40}
    with (Path(ended.trainer.log_dir or "") / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["env_steps"]) for line in lines] == [10, 20, 30, 40]
    assert all(math.isfinite(float(value)) for line in lines for value in line.values() if value)
    taught = {f"{t['teacher']}-{t['student']}" for t in config["model"].get("transfers", [])}
    assert {k.removeprefix("distillation_kl/") for k in lines[0] if k.startswith("distillation_kl/")} == taught
    assert all(torch.isfinite(p).all() for p in ended.model.parameters())
