"""The real emulator in the loop: Pong, learning, teaches Bowling through T1 and T2."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from graphs import Recorder, fit, graph, played
from pytorch_lightning.loggers import CSVLogger

from callbacks import AlignmentSchedule, DistillationSchedule
from cdrl_pl.agents.student import LearnerConfig
from cdrl_pl.envs import EnvConfig
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.alignment import AlignmentConfig
from cdrl_pl.transfer.transfer import TransferConfig

T1, T2, T_MAX, BATCH = 100, 200, 300, 20
NETWORK = NetworkConfig(channels=8, lstm=16)


class Screens(pl.Callback):
    """Of every game: the brightest pixel, and how many pixels differed between two rows of one copy."""

    def __init__(self) -> None:
        self.brightest: dict[str, int] = {}
        self.moved: dict[str, int] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        for name, rollout in batch.rollouts.items():
            moved = int((rollout.obs[1:] != rollout.obs[:-1]).sum())
            self.brightest[name] = max(self.brightest.get(name, 0), int(rollout.obs.max()))
            self.moved[name] = self.moved.get(name, 0) + moved


class Trained:
    """One run, and what was seen of it."""

    def __init__(self, folder: Path) -> None:
        agents = {
            name: AgentConfig(EnvConfig(f"{name.title()}-2017"), NETWORK, LearnerConfig(lr=1e-3))
            for name in ("pong", "bowling")
        }
        align = AlignmentConfig(hidden=16, depth=2, lr=1e-3)
        edge = TransferConfig("pong", "bowling", T1, T2, "never", temperature=2.0, alignment=align)
        self.module: Collaboration = graph(edge, agents=agents, T_max=T_MAX, log_every=BATCH)
        self.recorder, self.screens = Recorder(), Screens()
        logger = CSVLogger(str(folder))
        self.trainer = fit(
            self.module, played(steps=10, deterministic=False), folder, self.recorder, self.screens, logger=logger
        )
        with (Path(logger.log_dir) / "metrics.csv").open() as file:
            self.lines = list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("atari"))


def test_the_clocks_are_exact(trained: Trained) -> None:
    assert trained.module.env_steps == {"pong": T_MAX, "bowling": T_MAX}
    assert trained.recorder.starts == list(range(0, T_MAX, BATCH))
    assert [float(line["env_steps"]) for line in trained.lines] == list(range(BATCH, T_MAX + 1, BATCH))


@pytest.mark.parametrize(("kind", "at"), [(AlignmentSchedule, T1), (DistillationSchedule, T2)])
def test_the_schedule_switches_once(kind: type[AlignmentSchedule], at: int, trained: Trained) -> None:
    (schedule,) = (c for c in trained.trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]
    assert schedule.switched == {"pong-bowling": [at]}


@pytest.mark.parametrize(
    ("part", "since"),
    [
        ("_agents.pong.network.trunk", 0),
        ("_agents.bowling.network.trunk", 0),
        ("_transfers.pong-bowling.alignment", T1),
        ("_agents.bowling.network.distill_head", T2),
        ("_agents.pong.network.distill_head", T_MAX),
    ],
)
def test_a_part_learns_from_its_phase_on(part: str, since: int, trained: Trained) -> None:
    assert trained.recorder.changed_at(part) == list(range(since, T_MAX, BATCH))


@pytest.mark.parametrize("agent", ["pong", "bowling"])
def test_losses_are_there_and_finite(agent: str, trained: Trained) -> None:
    for line in trained.lines:
        assert all(math.isfinite(float(line[f"{loss}/{agent}"])) for loss in ("policy_loss", "value_loss"))
        assert 0 < float(line[f"entropy/{agent}"]) <= math.log(6) + 1e-5  # six actions


@pytest.mark.parametrize("loss", ["alignment_kl", "distillation_kl"])
def test_the_transfers_losses_are_finite_since_the_teacher_is_asked(loss: str, trained: Trained) -> None:
    values = [line[f"{loss}/pong-bowling"] for line in trained.lines]
    assert values[: T1 // BATCH] == [""] * (T1 // BATCH)
    assert all(math.isfinite(float(value)) and float(value) >= -1e-6 for value in values[T1 // BATCH :])


def test_the_games_show_moving_pictures(trained: Trained) -> None:
    assert all(100 < brightest <= 255 for brightest in trained.screens.brightest.values())
    assert all(moved > T_MAX for moved in trained.screens.moved.values())
