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

from cdrl_pl.agents.certificate import save_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.envs import EnvConfig, View, describe
from cdrl_pl.envs.packages import make_known
from cdrl_pl.evaluation.score import Score
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.presets import PRESETS
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig
from cdrl_pl.transfer.alignment_file import save_alignment

pytestmark = pytest.mark.slow

run, build = command_line.run, command_line.build
FILES = sorted(
    path for path in CONFIGS.rglob("*.yaml") if not {"experiments", "tuning"} & {*path.parts}
)  # those: test_experiment, test_tune
OVERLAYS = [path for path in FILES if "agents" not in yaml.safe_load(path.read_text())["model"]]
WHOLE = [path for path in FILES if path not in OVERLAYS]
CONTROLS = [path for path in OVERLAYS if path.stem != "short"]
TASKS = {
    "pong": EnvConfig("Pong-2017"),
    "pong_84": EnvConfig("Pong-2017", view=View(84, (0, 210), maximum=True, stack=4)),
    "bowling": EnvConfig("Bowling-2017"),
    "cartpole": EnvConfig("CartPole-v1"),
    "cartpole_enlarged": EnvConfig("CartPole-v1", actions=(1, 0, 1)),
    "sb3_lunarlander": EnvConfig("LunarLander-v3"),
    "minigrid_doorkey": EnvConfig("MiniGrid-DoorKey-5x5-v0", view=View(keys=("image", "direction"), codes=(11, 6, 3))),
}  # of certificated teachers, by the name of their folder
each_config = pytest.mark.parametrize("path", WHOLE, ids=lambda path: str(path.relative_to(CONFIGS))[:-5])


def stored_teachers(config: dict[str, Any], below: Path) -> None:
    """Teachers and alignments that know nothing, in the files that the config names."""
    for agent in config["model"]["agents"].values():
        if (folder := agent.get("certificate")) and not (below / folder).exists():
            env = TASKS[Path(folder).name]
            spec = describe(env)
            trunk = "conv" if len(spec.obs_shape) == 3 else "mlp"
            network = PolicyNetwork(NetworkConfig(trunk, channels=4, lstm=8), spec.obs_shape, spec.num_actions)
            score = Score(1, 0.0, 0.0, 1.0, (0.0,), "sampled", 0, 0)
            save_certificate(below / folder, network, env, spec, {"sampled": score}, {})
    for transfer in config["model"].get("transfers", []):
        if path := transfer.get("alignment", {}).get("file"):
            meanings = tuple(actions(config["model"]["agents"][transfer[end]], below) for end in ("teacher", "student"))
            function = Alignment(AlignmentConfig(hidden=8), *map(len, meanings), PRESETS["paper"])
            save_alignment(below / path, function.network, meanings, {})


def skip_where_a_package_is_missing(config: dict[str, Any]) -> None:
    for agent in config["model"]["agents"].values():
        stored = TASKS.get(Path(agent.get("certificate") or "").name)
        if extra := make_known(stored.id if stored else agent.get("env", {}).get("id", "")):
            pytest.skip(f"needs the extra {extra}")


def actions(agent: dict[str, Any], below: Path) -> tuple[str, ...]:
    if folder := agent.get("certificate"):
        return CertificatedAgent(below / folder).spec.action_meanings
    return describe(EnvConfig(**agent["env"])).action_meanings


def test_there_are_configs() -> None:
    assert {"quickstart.yaml", "cartpole.yaml"} <= {path.name for path in WHOLE}
    assert {"short", "control_random", "no_transfer"} <= {path.stem for path in OVERLAYS}


ROWS = {
    "a3c_pong": "section 3.2",
    "a3c_bowling": "Figures 4 and 6",
    "kd_only": "Figure 3a",
    "kd_only_expert": "Figure 3a",
    "kd_first_million": "Figure 3b",
    "kd_policy": "Figure 4a",
    "kd_distill": "Figure 4b",
    "alignment": "Figure 6a",
    "offline": "Figure 6a",
    "online_1": "Figure 6b",
    "online_2": "Figure 6c",
    "collaborative": "Figure 6d",
    "two_way": "Definition 4.1",
    "three_agents": "Definition 4.1",
}


@pytest.mark.parametrize(("name", "figure"), ROWS.items())
def test_every_system_of_the_paper_has_a_config_that_names_its_figure(name: str, figure: str) -> None:
    lines = (CONFIGS / "paper" / f"{name}.yaml").read_text().splitlines()
    assert figure in " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_says_at_its_head_what_it_is(path: Path) -> None:
    first, *_ = path.read_text().splitlines()
    assert first.startswith("# ") and len(first) > 40


@each_config
def test_a_config_trains_through_every_phase(path: Path, run: Run, tmp_path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    skip_where_a_package_is_missing(config)
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


# Overlays


def built(build: Run, below: Path, *paths: Path) -> Run:
    stored_teachers(yaml.safe_load(paths[0].read_text()), below)
    return build("fit", *(word for path in paths for word in ("--config", path)), "--trainer.accelerator=cpu")


@each_config
def test_the_short_overlay_makes_any_config_short(path: Path, build: Run, tmp_path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    skip_where_a_package_is_missing(config)
    found = built(build, tmp_path, path, CONFIGS / "overlays/short.yaml")
    assert set(found.model.agents) == set(config["model"]["agents"])
    assert (found.model.T_max, found.datamodule.evaluation_episodes) == (30_000, 2)
    for transfer in found.model.transfers:
        schedule = transfer.schedule
        assert (schedule.T2, schedule.stop) == (16_000, 24_000)
        assert (8_000 if transfer.alignment.trainable else None) == schedule.T1


@pytest.mark.parametrize("overlay", CONTROLS, ids=lambda path: path.stem)
def test_a_control_is_one_line_beside_a_config(overlay: Path, build: Run, tmp_path: Path) -> None:
    (line,) = [line for line in overlay.read_text().splitlines() if not line.startswith("#")]
    ((option, value),) = yaml.safe_load(line)["model"].items()
    found = built(build, tmp_path, CONFIGS / "paper/online_2.yaml", overlay)
    assert [getattr(transfer.config, option) for transfer in found.model.transfers] == [value]
