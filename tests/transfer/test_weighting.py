"""How strongly a student listens: weights over time, averages, and that a resumed run goes on alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import FixedData, agent, copy_of, fit, graph, new_network, random_batch, spread, store, transfer
from weightings import logged, trained
from wide_cartpole import WIDE

from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.weighting import AlarmConfig, MovingAverage, TeacherWeights, WeightConfig
from cdrl_pl.types import Episode

# Weights over time


def test_the_weight_is_logged_from_t2_on_and_annealed_from_there(tmp_path: Path) -> None:
    weight = WeightConfig("linear", start=2.0, end=0.0, steps=40)
    found = logged(graph(transfer(T2=20, weight=weight), T_max=80), tmp_path).of("distillation_weight/alpha-beta")
    assert found == [None, None, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]


def test_a_student_is_weaned_by_the_mean_return_of_the_last_line(tmp_path: Path) -> None:
    weight = WeightConfig("wean", low=0.0, high=4.0)
    module = graph(transfer(weight=weight), T_max=50, window=1)
    batches = []
    for ret in (1.0, 3.0, 8.0, 0.0, 0.0):
        batch = random_batch(module)
        batches.append({**batch, "beta": replace(batch["beta"], episodes=(Episode(ret, 1),))})
    found = logged(module, tmp_path, *batches).of("distillation_weight/alpha-beta")
    assert found == [1.0, 0.75, 0.25, 0.0, 1.0]


def test_a_constant_schedule_is_a_plain_weight_bit_for_bit(tmp_path: Path) -> None:
    plain, scheduled = (trained(tmp_path, weight=w) for w in (0.7, WeightConfig(start=0.7)))
    assert all(torch.equal(plain[k], scheduled[k]) for k in plain)


def test_a_weight_that_is_annealed_teaches_otherwise(tmp_path: Path) -> None:
    """The control of the test above."""
    plain, scheduled = (trained(tmp_path, weight=w) for w in (0.7, WeightConfig("cosine", start=0.7, steps=30)))
    assert not torch.equal(
        plain["_agents.beta.network.trunk.1.weight"], scheduled["_agents.beta.network.trunk.1.weight"]
    )


# Moving averages


def test_an_average_is_the_mean_of_the_first_values_and_then_forgets() -> None:
    average = MovingAverage()
    found = []
    for value in (3.0, 5.0, 1.0, 9.0):
        average.add(value, 2)
        found.append(average.mean)
    assert found == [3.0, 4.0, 2.5, 5.75] and average.count == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_average_leaves_out_what_is_not_finite(value: float) -> None:
    average = MovingAverage()
    for each in (3.0, value, 5.0):
        average.add(each, 10)
    assert average.mean == 4.0


# Resuming


class SaveAt(pl.Callback):
    def __init__(self, path: Path, clock: int) -> None:
        self.path, self.clock = path, clock

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if module.clock == self.clock:
            trainer.save_checkpoint(self.path)


def everything(folder: Path, checkpoint: Path | None, skip: int = 0) -> dict[str, Any]:
    """All options at once, through a run or from its middle: weights and weighting at the end."""
    learner = {"off_policy": "vtrace", "batch_copies": 1}
    agents = {
        "one": agent(WIDE),
        "two": AgentConfig(certificate=str(folder / "expert")),
        "beta": replace(agent(**learner), teacher_weights=TeacherWeights("value", span=4)),
    }
    options: dict[str, Any] = {"alarm": AlarmConfig(every=3, span=2, release_below=0.1), "temperature": 3.0}
    module = graph(
        transfer("one", weight=WeightConfig("cosine", steps=90), temperature_end=1.0, temperature_steps=80, **options),
        transfer("two", kind="identity", weight=WeightConfig("wean", low=0.0, high=20.0), **options),
        agents=agents,
        T_max=120,
    )
    for i, found in enumerate(module.agents.values()):
        spread(found.network, i)
    batches = [random_batch(module, seed) for seed in range(12)][skip:]
    fit(module, FixedData(*batches), folder, SaveAt(folder / "middle.ckpt", 60), ckpt_path=checkpoint)
    return {**copy_of(module), "weighting": [edge.weighting.state_dict() for edge in module.transfers]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    store(folder / "expert", new_network(3))
    return folder, everything(folder, None)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [k for k in one if not (torch.equal(one[k], other[k]) if k != "weighting" else one[k] == other[k])]


@pytest.mark.filterwarnings("ignore:transfer")
def test_fault_15_a_resumed_run_guides_as_an_uninterrupted_one(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = whole
    assert all(g["value"][1] == 24 and g["cosine"][1] == 8 for g in expected["weighting"])
    assert any(g["tripped"] for g in expected["weighting"])
    assert differing(everything(folder, folder / "middle.ckpt", skip=6), expected) == []


@pytest.mark.filterwarnings("ignore:transfer")
def test_a_run_that_lost_its_guidance_would_differ(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The control of the test above."""
    folder, expected = whole
    checkpoint = torch.load(folder / "middle.ckpt", weights_only=True)
    fresh = graph(transfer()).transfers[0].weighting.state_dict()
    for state in checkpoint["collaboration"]["transfers"].values():
        state["weighting"] = fresh
    torch.save(checkpoint, tmp_path / "lost.ckpt")
    found = differing(everything(folder, tmp_path / "lost.ckpt", skip=6), expected)
    assert "weighting" in found and any(k.startswith("_agents.beta") for k in found)


# Options that cannot be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherWeights("best"), "teacher_weights.by is 'best'; it must be fixed or value"),  # type: ignore[arg-type]
        (lambda: TeacherWeights(sharpness=-1.0), "teacher_weights.sharpness is -1.0; it must be 0 or more"),
        (lambda: TeacherWeights(span=0), "teacher_weights.span is 0; it must be 1 or more"),
        (lambda: AlarmConfig(every=0), "alarm.every is 0; it must be 1 or more"),
        (lambda: AlarmConfig(span=0), "alarm.span is 0; it must be 1 or more"),
        (lambda: AlarmConfig(release_below=1.5), "alarm.release_below is 1.5; it must be from -1 to 1, or null"),
    ],
)
def test_fault_28_a_setting_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_fault_28_an_alarm_for_a_student_without_rewards_is_refused() -> None:
    agents = {"alpha": agent(WIDE), "beta": agent(reinforce=False)}
    with pytest.raises(ValueError, match="transfer alpha-beta: alarm needs a student that learns from its own rewards"):
        graph(transfer(alarm=AlarmConfig()), agents=agents)


@pytest.mark.parametrize(
    ("reinforce", "preset", "message"), [(False, "paper", "without own rewards"), (True, "code", "distill_step: joint")]
)
def test_fault_28_weighing_teachers_by_value_where_it_cannot_be_is_refused(
    reinforce: bool, preset: str, message: str
) -> None:
    beta = replace(agent(reinforce=reinforce), teacher_weights=TeacherWeights("value"))
    with pytest.raises(ValueError, match=f"agents.beta.teacher_weights.by is 'value'.*{message}"):
        graph(transfer(), agents={"alpha": agent(WIDE), "beta": beta}, preset=preset)
