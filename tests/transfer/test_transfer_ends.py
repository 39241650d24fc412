"""Ends, options and schedules of a transfer that fit, and the refusal of those that do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graphs import TINY, agent, logits_on, new_network, random_rollout, step_once, store
from graphs import graph as make_graph
from graphs import transfer as edge
from transfers import PAPER
from wide_cartpole import CARTPOLE, WIDE

from cdrl_pl.schedule import Schedule
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig
from cdrl_pl.transfer.transfer import TransferConfig
from cdrl_pl.transfer.weighting import AlarmConfig, WeightConfig

# Ends that do not fit


@pytest.mark.parametrize(("alpha", "beta"), [(WIDE, CARTPOLE), (CARTPOLE, WIDE)])
def test_fault_23_f_maps_between_different_action_counts(alpha: str, beta: str) -> None:
    module = make_graph(edge(), agents={"alpha": agent(alpha), "beta": agent(beta)})
    transfer, counts = module.transfers[0], {CARTPOLE: 2, WIDE: 5}
    teacher_logits = logits_on(module, random_rollout(actions=counts[beta]))
    assert teacher_logits.shape == (5, 2, counts[alpha]) and transfer.alignment(teacher_logits).shape == (
        5,
        2,
        counts[beta],
    )


@pytest.mark.parametrize("layer", ["distillation", "policy"])
def test_fault_23_the_identity_between_different_action_counts_is_refused(layer: Any) -> None:
    with pytest.raises(ValueError, match=r"transfer alpha-beta: .*'identity'.*teacher has 5 .*student 2; use 'deep'"):
        make_graph(edge(kind="identity", layer=layer))


def test_fault_24_ends_with_different_observations_are_refused() -> None:
    agents = {"alpha": agent("Acrobot-v1"), "beta": agent()}
    with pytest.raises(ValueError, match=r"transfer alpha-beta: .*\(6,\).*\(4,\), .*; they must be equal"):
        make_graph(edge(), agents=agents)


def test_a_students_memory_that_does_not_fit_the_teacher_is_refused() -> None:
    agents = {"alpha": agent(network=replace(TINY, lstm=3)), "beta": agent()}
    with pytest.raises(
        ValueError, match=r"transfer alpha-beta: .*8 numbers.*\(6\); use preset_overrides.teacher_state: own"
    ):
        make_graph(edge(), agents=agents, preset="code")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_fault_28_a_temperature_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: temperature is {value}; it must be above 0"):
        make_graph(edge(temperature=value))


@pytest.mark.parametrize("value", [-0.5, float("nan")])
def test_fault_28_a_weight_below_0_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: weight is {value}; it must be 0 or more"):
        make_graph(edge(weight=value))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature_end", 0.0, "above 0, or null"),
        ("temperature_steps", 0, "1 or more decisions"),
        ("divergence", "kl", "one of forward, reverse, jensen_shannon"),
        ("layer", "value", "distillation or policy"),
    ],
)
def test_fault_28_an_option_out_of_range_is_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: {name} is {value!r}; it must be {allowed}"):
        make_graph(edge(**{name: value}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature_end": 2.0}, "need preset_overrides.use_temperature: true"),
        ({"temperature_squared": True}, "need preset_overrides.use_temperature: true"),
        ({"weight": WeightConfig()}, "need preset_overrides.distill_step: joint"),
        ({"alarm": AlarmConfig()}, "need preset_overrides.distill_step: joint"),
    ],
)
def test_fault_28_what_the_programs_reading_leaves_without_effect_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"transfer alpha-beta: .*{message}"):
        make_graph(edge(**options), preset="code")


def test_fault_28_an_unknown_divergence_of_the_alignment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alignment.divergence is 'kl'; it must be one of forward, .*, or null"):
        AlignmentConfig(divergence="kl")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T1": 20, "T2": 10}, r"transfer alpha-beta: T2 is 10 but T1 is 20"),
        ({"T1": 0, "T2": 10, "stop": 9}, r"transfer alpha-beta: stop is 9 but T2 is 10"),
        ({"T1": -1}, r"transfer alpha-beta: T1 is -1; it must be 0 or more"),
        ({"T1": None, "T2": 10}, r"transfer alpha-beta: T2 is 10 but T1 is 4000000"),
    ],
)
def test_fault_28_an_impossible_schedule_is_refused_by_the_transfers_name(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_graph(edge(**options))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["lr", "max_grad_norm"])
def test_fault_28_an_alignment_setting_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"alignment.{name} is {value}; it must be above 0"):
        AlignmentConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hidden", "depth"])
def test_fault_28_an_alignment_without_layers_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"alignment.{name} is 0; it must be above 0"):
        AlignmentConfig(**{name: 0})  # type: ignore[arg-type]


# Schedules of transfers


def test_never_has_no_stop_and_null_takes_the_presets() -> None:
    never, default = TransferConfig("alpha", "beta", stop="never"), TransferConfig("alpha", "beta")
    assert never.schedule(PAPER, True).stop is None and default.schedule(PAPER, True).stop == 15_000_000


def test_the_identity_needs_no_alignment_phase() -> None:
    config = TransferConfig("alpha", "beta", T2=5, alignment=AlignmentConfig("identity"))
    aligns = Alignment(config.alignment, 2, 2, PAPER).trainable
    assert config.schedule(PAPER, aligns) == Schedule(None, 5, 15_000_000)


def test_the_runs_schedule_wins_over_the_transfers() -> None:
    module = make_graph(edge(T1=1, T2=2, stop=3), T1=10, T2=20, stop="never")
    assert module.transfers[0].schedule == Schedule(10, 20, None)


def test_a_student_of_a_certificated_teacher_has_another_memory(tmp_path: Path) -> None:
    """Teacher state and student state have different widths here, and are kept apart."""
    store(tmp_path / "expert", new_network(3, config=replace(TINY, lstm=7)))
    agents = {"alpha": AgentConfig(certificate=str(tmp_path / "expert")), "beta": agent()}
    module = make_graph(edge(), agents=agents)
    step_once(module, tmp_path)
    assert module.transfers[0].teacher.states[0].shape == (2, 14)
