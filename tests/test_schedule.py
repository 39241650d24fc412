"""The phases of a transfer as functions of T: every boundary, exactly."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from cdrl_pl.schedule import Schedule, aligns, distils, linear, running
from cdrl_pl.transfer.weighting import WeightConfig, weight_at

STEPS = st.integers(0, 2**40)


def phase(schedule: Schedule, env_steps: int) -> str:
    """A word for what the pure functions say at T."""
    if not running(schedule, env_steps):
        return "stopped"
    if distils(schedule, env_steps):
        return "distil"
    return "align" if aligns(schedule, env_steps) else "reinforce"


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any valid schedule."""
    first, second, stop = sorted(draw(st.tuples(STEPS, STEPS, STEPS)))
    return Schedule(draw(st.sampled_from([first, None])), second, draw(st.sampled_from([stop, None])))


@given(schedules(), STEPS)
def test_the_switches_follow_algorithm_1(schedule: Schedule, env_steps: int) -> None:
    before_stop = schedule.stop is None or env_steps < schedule.stop
    assert running(schedule, env_steps) == before_stop
    assert distils(schedule, env_steps) == (env_steps >= schedule.T2 and before_stop)
    assert aligns(schedule, env_steps) == (schedule.T1 is not None and env_steps >= schedule.T1 and before_stop)


@given(schedules(), STEPS, STEPS)
def test_phases_come_in_order(schedule: Schedule, one: int, other: int) -> None:
    order = ["reinforce", "align", "distil", "stopped"]
    assert order.index(phase(schedule, min(one, other))) <= order.index(phase(schedule, max(one, other)))


# The int32 limit, and two numbers that a float32 counter cannot hold.
@pytest.mark.parametrize("at", [0, 1, 4_000_000, 2**24 + 1, 2**31 - 3, 2**33])
def test_fault_30_each_switch_turns_at_its_exact_step(at: int) -> None:
    schedule = Schedule(T1=at, T2=at + 1, stop=at + 2)
    around = [phase(schedule, t) for t in range(max(0, at - 1), at + 4)]
    assert around == ["reinforce"] * (at > 0) + ["align", "distil", "stopped", "stopped"]


@pytest.mark.parametrize("env_steps", [0, 15_000_000, 2**33, 2**63 - 2])
def test_without_a_stop_distillation_never_ends(env_steps: int) -> None:
    assert phase(Schedule(T1=0, T2=0), env_steps) == "distil"


def test_an_alignment_that_needs_no_training_is_never_trained() -> None:
    schedule = Schedule(T1=None, T2=10, stop=20)
    assert not any(aligns(schedule, t) for t in range(30))
    assert [phase(schedule, t) for t in (9, 10, 19, 20)] == ["reinforce", "distil", "distil", "stopped"]


def test_all_switches_may_turn_at_once() -> None:
    schedule = Schedule(T1=5, T2=5, stop=5)
    assert [phase(schedule, t) for t in (4, 5)] == ["reinforce", "stopped"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T1": -1, "T2": 0}, "T1 is -1"),
        ({"T1": None, "T2": -2}, "T2 is -2"),
        ({"T1": 0, "T2": 0, "stop": -3}, "stop is -3"),
        ({"T1": 6_000_000, "T2": 4_000_000}, "T2 is 4000000 but T1 is 6000000"),
        ({"T1": 1, "T2": 2**33, "stop": 2**33 - 1}, "stop is 8589934591 but T2 is 8589934592"),
    ],
)
def test_fault_28_an_impossible_schedule_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**options)


@pytest.mark.parametrize(("env_steps", "value"), [(0, 8.0), (25, 6.5), (50, 5.0), (99, 2.06), (100, 2.0), (2**33, 2.0)])
def test_a_linear_schedule_goes_from_start_to_end_and_stays(env_steps: int, value: float) -> None:
    assert linear(8.0, 2.0, 100, env_steps) == pytest.approx(value, rel=1e-12)


def test_a_linear_schedule_over_no_steps_is_at_its_end() -> None:
    assert linear(8.0, 2.0, 0, 0) == 2.0


def test_a_linear_schedule_without_an_end_stays_at_its_start() -> None:
    assert [linear(8.0, None, 100, t) for t in (0, 50, 1000)] == [8.0] * 3


# The weight of a transfer


@given(start=st.floats(0, 100), decisions=STEPS)
def test_a_constant_weight_is_its_start_exactly(start: float, decisions: int) -> None:
    assert weight_at(WeightConfig(start=start), decisions, 3.0) == start


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]),
        ("cosine", [2.0, 1.5 + math.sqrt(0.125), 1.5, 1.5 - math.sqrt(0.125), 1.0, 1.0]),
    ],
)
def test_a_weight_is_annealed_over_its_steps_and_stays(shape: Any, expected: list[float]) -> None:
    config = WeightConfig(shape, start=2.0, end=1.0, steps=100)
    assert [weight_at(config, t, None) for t in (0, 25, 50, 75, 100, 2**33)] == pytest.approx(expected)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_before_its_steps_count_a_weight_is_at_its_start(shape: Any) -> None:
    assert weight_at(WeightConfig(shape, start=2.0), -5, None) == 2.0


@pytest.mark.parametrize(
    ("mean_return", "expected"), [(None, 1.0), (-30.0, 1.0), (-20.0, 1.0), (0.0, 0.5), (20.0, 0.0), (21.0, 0.0)]
)
def test_a_student_is_weaned_as_its_return_rises(mean_return: float | None, expected: float) -> None:
    config = WeightConfig("wean", low=-20.0, high=20.0)
    assert [weight_at(config, t, mean_return) for t in (0, 2**33)] == [expected] * 2


def test_a_student_that_gets_worse_is_helped_again() -> None:
    config = WeightConfig("wean", start=3.0, end=1.0, low=0.0, high=10.0)
    assert [weight_at(config, 0, ret) for ret in (5.0, 10.0, 5.0)] == [2.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "step"}, "weight.shape is 'step'; it must be constant, linear, cosine or wean"),
        ({"start": -1.0}, "weight.start is -1.0; it must be 0 or more"),
        ({"end": float("nan")}, "weight.end is nan; it must be 0 or more"),
        ({"steps": 0}, "weight.steps is 0; it must be 1 or more"),
        ({"shape": "wean", "low": 0.0}, "weight.low is 0.0 and weight.high None; wean needs two returns"),
        ({"shape": "wean", "low": 5.0, "high": 5.0}, "weight.low is 5.0 and weight.high 5.0; wean needs two returns"),
    ],
)
def test_fault_28_an_impossible_weight_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightConfig(**options)
