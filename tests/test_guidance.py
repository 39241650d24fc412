"""How strongly a student listens: weights over time, teachers weighed by their value, and the alarm."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from graphs import (
    HEADS,
    FixedData,
    agent,
    copy_of,
    fit,
    graph,
    new_network,
    random_batch,
    random_rollout,
    spread,
    store,
    transfer,
)
from hypothesis import given
from numpy.testing import assert_allclose
from torch import Tensor
from torch.testing import assert_close
from wide_cartpole import WIDE

from cdrl_pl.collaboration import Collaboration
from cdrl_pl.graph import AgentConfig
from cdrl_pl.guidance import (
    AlarmConfig,
    Guidance,
    MovingAverage,
    TeacherWeights,
    gradient_cosine,
    share,
    teacher_value,
)
from cdrl_pl.meter import Meter
from cdrl_pl.networks import PolicyNetwork
from cdrl_pl.schedule import WeightConfig
from cdrl_pl.student import Student
from cdrl_pl.types import Episode, Rollout


class Lines(pl.Callback):
    """Every log line of a run that writes one per batch."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.lines.append(dict(module.journal.latest))

    def of(self, name: str) -> list[float | None]:
        return [line.get(name) for line in self.lines]


def logged(module: Collaboration, folder: Path, *batches: dict[str, Rollout]) -> Lines:
    lines = Lines()
    fit(module, FixedData(*(batches or [random_batch(module)])), folder, lines)
    return lines


def trained(folder: Path, **options: Any) -> dict[str, Tensor]:
    module = graph(transfer(**options), T_max=60)
    fit(module, FixedData(*(random_batch(module, seed) for seed in range(3))), folder)
    return copy_of(module)


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


# Several teachers


def slow_value(target: Tensor, logits: Tensor, actions: Tensor, advantages: Tensor) -> float:
    """Each decision by itself: how much likelier the teacher would have taken it, times what it was worth."""
    worth = advantages.double().numpy()
    worth = (worth - worth.mean()) / worth.std()
    total = 0.0
    for t, b in np.ndindex(worth.shape):
        p, q = (np.exp(z[t, b].double().numpy()) for z in (target, logits))
        a = int(actions[t, b])
        total += (min(2.0, (p / p.sum())[a] / (q / q.sum())[a]) - 1.0) * worth[t, b]
    return float(total / worth.size)


def decisions(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A teacher's logits, the student's, its actions, and their advantages."""
    make = torch.Generator().manual_seed(seed)
    target, logits, advantages = (torch.randn(*s, generator=make) for s in ((6, 3, 4), (6, 3, 4), (6, 3)))
    return 2 * target, logits, torch.randint(4, (6, 3), generator=make), 5 + 3 * advantages


@given(seed=st.integers(0, 2**32 - 1))
def test_a_teachers_value_equals_its_slow_reference(seed: int) -> None:
    given_ = decisions(seed)
    assert_allclose(teacher_value(*given_).item(), slow_value(*given_), rtol=1e-4, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
def test_a_teachers_value_has_no_unit_and_does_not_heed_a_biased_critic(seed: int, scale: float, shift: float) -> None:
    target, logits, actions, advantages = decisions(seed)
    found = teacher_value(target, logits, actions, scale * advantages + shift)
    assert_allclose(found, teacher_value(target, logits, actions, advantages), atol=1e-2)
    assert found.abs() <= 1 + 1e-6


def test_a_teacher_who_does_as_the_student_has_no_value() -> None:
    _, logits, actions, advantages = decisions(0)
    assert_allclose(teacher_value(logits + 3, logits, actions, advantages), 0.0, atol=1e-6)


def test_advantages_that_are_all_equal_tell_nothing_of_a_teacher() -> None:
    target, logits, actions, advantages = decisions(0)
    assert teacher_value(target, logits, actions, torch.full_like(advantages, 7.0)) == 0.0


def test_a_teacher_of_the_better_action_has_the_value_known_beforehand() -> None:
    """A uniform student of two actions, of which 0 pays: always 0 doubles its probability and ends that of 1."""
    actions = torch.tensor([[0, 1]] * 4)
    worth = torch.where(actions == 0, 10.0, -30.0)
    student, always_0 = torch.zeros(4, 2, 2), torch.tensor([50.0, -50.0]).expand(4, 2, 2)
    assert_allclose(teacher_value(always_0, student, actions, worth), 1.0, rtol=1e-6)
    assert_allclose(teacher_value(-always_0, student, actions, worth), -1.0, rtol=1e-6)


def test_fault_27_extreme_logits_give_a_finite_value() -> None:
    _, logits, actions, advantages = decisions(0)
    found = teacher_value(-120 * logits.sign(), 120 * logits.sign(), actions, advantages)
    assert found.isfinite() and found.abs() <= 1


def test_a_value_of_advantages_of_another_shape_is_refused() -> None:
    target, logits, actions, advantages = decisions(0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        teacher_value(target, logits, actions, advantages[:, :1])


def guides(*values: float) -> list[Guidance]:
    made = [Guidance(str(i), WeightConfig(start=2.0), None) for i in range(len(values))]
    for guide, value in zip(made, values, strict=True):
        guide.value.add(value, 1)
    return made


def test_factors_are_a_softmax_of_the_values_times_the_number_of_teachers() -> None:
    made = guides(0.3, 0.1, -0.2)
    share(made, TeacherWeights("value", sharpness=5.0))
    powers = [math.exp(5 * v) for v in (0.3, 0.1, -0.2)]
    expected = [3 * p / sum(powers) for p in powers]
    assert [g.factor for g in made] == pytest.approx(expected)
    assert [g.weight for g in made] == pytest.approx([2 * factor for factor in expected])


@pytest.mark.parametrize("config", [TeacherWeights(), TeacherWeights("value", sharpness=0.0)])
def test_fixed_weights_and_no_sharpness_leave_every_weight_as_it_is(config: TeacherWeights) -> None:
    made = guides(0.9, -0.9)
    share(made, config)
    assert [g.weight for g in made] == [2.0, 2.0]


def test_an_only_teacher_has_the_factor_1() -> None:
    made = guides(-0.9)
    share(made, TeacherWeights("value", sharpness=1e6))
    assert made[0].factor == 1.0
    share([], TeacherWeights("value"))


def stubborn(action: int) -> PolicyNetwork:
    """A teacher that always takes this action of two."""
    network = new_network(action)
    with torch.no_grad():
        for head in HEADS:
            for parameter in getattr(network, head).parameters():
                parameter.zero_()
        network.policy_head.bias[action] = 20.0
    return network


def paid_for_0(module: Collaboration, seed: int = 0) -> dict[str, Rollout]:
    rollout = random_rollout(seed, steps=10, ends=0.0)
    return {"beta": replace(rollout, rewards=torch.where(rollout.actions == 0, 1.0, -1.0))}


def two_teachers(folder: Path, temperature: float = 1.0, **options: Any) -> Collaboration:
    """One teacher always takes the action that pays, the other never."""
    agents: dict[str, AgentConfig] = {"beta": replace(agent(gamma=0.0), **options)}
    for name, action in (("good", 0), ("bad", 1)):
        store(folder / name, stubborn(action))
        agents[name] = AgentConfig(certificate=str(folder / name))
    edges = [transfer(name, kind="identity", temperature=temperature) for name in ("good", "bad")]
    return graph(*edges, agents=agents, T_max=20 * 30)


def test_a_student_learns_which_of_two_teachers_to_listen_to(tmp_path: Path) -> None:
    module = two_teachers(tmp_path, teacher_weights=TeacherWeights("value", sharpness=2.0, memory=5))
    batches = [paid_for_0(module, seed) for seed in range(5)]
    lines = logged(module, tmp_path, *batches)
    good, bad = ([x for x in lines.of(f"distillation_weight/{name}-beta") if x is not None] for name in ("good", "bad"))
    assert good[0] == bad[0] == 1.0  # nothing is known yet
    assert good[1] > 1.5 and bad[1] < 0.5
    assert [a + b for a, b in zip(good, bad, strict=True)] == pytest.approx([2.0] * len(good), rel=1e-5)
    assert (lines.of("teacher_value/good-beta")[0] or 0) > 0.5 and (lines.of("teacher_value/bad-beta")[0] or 0) < -0.5
    bias = module.agents["beta"].network.distill_head.bias
    assert bias[0] > bias[1]  # and it does what the good one says


def test_a_teachers_value_is_that_of_what_the_student_is_told(tmp_path: Path) -> None:
    """At tau = 20 a teacher whose logits are 20 and 0 asks for the first action in 73 of 100 cases only."""
    module = two_teachers(tmp_path, temperature=20.0, teacher_weights=TeacherWeights("value"))
    batch, student = paid_for_0(module), module.agents["beta"]
    with torch.no_grad():
        output = student(batch["beta"])
    told = torch.tensor([1.0, 0.0]).expand(10, 2, 2)
    worth = batch["beta"].rewards - output.values[:10]
    expected = slow_value(told, output.logits[:10], batch["beta"].actions, worth)
    found = logged(module, tmp_path, batch).of("teacher_value/good-beta")[0]
    assert found == pytest.approx(expected, rel=1e-3) and 0.1 < expected < 0.6


def test_with_fixed_weights_two_teachers_count_alike(tmp_path: Path) -> None:
    """The control of the test above."""
    module = two_teachers(tmp_path)
    lines = logged(module, tmp_path, paid_for_0(module))
    assert {*lines.of("distillation_weight/good-beta"), *lines.of("distillation_weight/bad-beta")} == {1.0}
    assert "teacher_value/good-beta" not in lines.lines[-1]


# The alarm


def test_the_cosine_is_that_of_two_backward_passes() -> None:
    network, rollout = new_network(), random_rollout()
    parameters = list(network.trunk.parameters())
    gradients = []
    for pick in ("logits", "values", None):
        output = network(rollout.obs, rollout.state, rollout.resets)
        one, other = output.logits.square().sum(), output.values.sin().sum()
        if pick is None:
            found = gradient_cosine(one, other, parameters)
            (one + other).backward()  # both graphs are still there
            continue
        network.zero_grad()
        (one if pick == "logits" else other).backward()
        gradients.append(np.concatenate([p.grad.double().numpy().ravel() for p in parameters if p.grad is not None]))
        network.zero_grad()
    a, b = gradients
    assert_allclose(found, a @ b / math.sqrt((a @ a) * (b @ b)), rtol=1e-4)


@pytest.mark.parametrize(("factor", "expected"), [(3.0, 1.0), (-0.1, -1.0), (0.0, 0.0)])
def test_the_cosine_of_a_loss_with_its_multiple(factor: float, expected: float) -> None:
    network, rollout = new_network(), random_rollout()
    loss = network(rollout.obs, rollout.state, rollout.resets).logits.square().sum()
    found = gradient_cosine(loss, factor * loss, list(network.trunk.parameters()))
    assert_allclose(found, expected, atol=1e-5)
    assert all(p.grad is None for p in network.parameters())


def test_a_loss_that_does_not_reach_the_trunk_has_the_cosine_0() -> None:
    network, rollout = new_network(), random_rollout()
    loss = network(rollout.obs, rollout.state, rollout.resets).logits.square().sum()
    other = network.value_head.bias.sum()
    assert gradient_cosine(loss, other, list(network.trunk.parameters())) == 0.0


def judged(config: AlarmConfig, *cosines: float) -> tuple[Guidance, list[float]]:
    guide = Guidance("alpha-beta", WeightConfig(start=2.0), config)
    weights = []
    for cosine in cosines:
        guide.judge(cosine, Meter())
        weights.append(guide.weight)
    return guide, weights


def test_the_alarm_releases_the_weight_while_the_average_is_low() -> None:
    with pytest.warns(UserWarning, match="alpha-beta.*against the reinforcement gradient.*is 0 until it recovers"):
        _, weights = judged(AlarmConfig(memory=2, release_below=-0.2), -0.9, -0.5, -0.5, 0.4, 0.8, -0.1)
    assert weights == [2.0, 0.0, 0.0, 2.0, 2.0, 2.0]  # the averages are -0.9, -0.7, -0.6, -0.1, 0.35, 0.125


def test_one_bad_measurement_is_no_alarm(recwarn: pytest.WarningsRecorder) -> None:
    guide, weights = judged(AlarmConfig(memory=3, release_below=0.0), 0.5, 0.5, 0.5, -0.4, 0.5)
    assert weights == [2.0] * 5 and not guide.tripped and not recwarn.list


def test_an_alarm_without_release_warns_once_and_leaves_the_weight(recwarn: pytest.WarningsRecorder) -> None:
    guide, weights = judged(AlarmConfig(memory=1), 0.5, -0.1, 0.5, -0.2)
    assert weights == [2.0] * 4 and guide.tripped
    (warning,) = recwarn.list
    assert "it may hurt" in str(warning.message)


def contrary(module: Collaboration, rollout: Rollout, sign: float) -> None:
    """The only transfer's loss becomes the student's own reinforcement loss, or its opposite."""
    student = module.agents["beta"]
    assert isinstance(student, Student)
    module.edges[0].distillation_loss = lambda output, aligned: (  # type: ignore[method-assign]
        sign * student.reinforcement_losses(output, rollout).total
    )


@pytest.mark.filterwarnings("ignore:transfer alpha-beta")
@pytest.mark.parametrize(("sign", "weight"), [(1.0, 3.0), (-1.0, 0.0)])
def test_a_transfer_that_works_against_the_rewards_is_released(tmp_path: Path, sign: float, weight: float) -> None:
    alarm = AlarmConfig(every=2, memory=2, release_below=0.0)
    module = graph(transfer(weight=3.0, alarm=alarm), T_max=60)
    batch = random_batch(module)
    contrary(module, batch["beta"], sign)
    lines = logged(module, tmp_path, batch)
    cosines = lines.of("gradient_cosine/alpha-beta")
    assert cosines[1::2] == [None] * 3 and cosines[::2] == pytest.approx([sign] * 3, abs=1e-4)
    assert lines.of("distillation_weight/alpha-beta") == [3.0, 3.0, weight, weight, weight, weight]
    assert lines.lines[-2]["time/alarm"] > 0


@pytest.mark.filterwarnings("ignore:transfer alpha-beta")
def test_a_released_student_learns_as_if_it_had_no_teacher(tmp_path: Path) -> None:
    states = []
    for edges in ([transfer(alarm=AlarmConfig(every=1, memory=1, release_below=1.0))], []):
        module = graph(*edges, T_max=60)
        if edges:
            module.edges[0].guidance.judge(-1.0, Meter())
        fit(module, FixedData(*(random_batch(module, seed) for seed in range(3))), tmp_path)
        states.append({k: v for k, v in copy_of(module).items() if k.startswith("_agents.beta")})
    for key, value in states[0].items():
        assert_close(value, states[1][key], rtol=0.0, atol=0.0)


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    plain, watched = (trained(tmp_path, alarm=a) for a in (None, AlarmConfig(every=1, memory=1000)))
    assert all(torch.equal(plain[k], watched[k]) for k in plain)


# Resuming


class SaveAt(pl.Callback):
    def __init__(self, path: Path, clock: int) -> None:
        self.path, self.clock = path, clock

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if module.clock == self.clock:
            trainer.save_checkpoint(self.path)


def everything(folder: Path, checkpoint: Path | None, skip: int = 0) -> dict[str, Any]:
    """All options at once, through a run or from its middle: weights and guidance at the end."""
    learner = {"off_policy": "vtrace", "batch_copies": 1}
    agents = {
        "one": agent(WIDE),
        "two": AgentConfig(certificate=str(folder / "expert")),
        "beta": replace(agent(**learner), teacher_weights=TeacherWeights("value", memory=4)),
    }
    options: dict[str, Any] = {"alarm": AlarmConfig(every=3, memory=2, release_below=0.1), "temperature": 3.0}
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
    return {**copy_of(module), "guidance": [edge.guidance.state_dict() for edge in module.edges]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    store(folder / "expert", new_network(3))
    return folder, everything(folder, None)


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [k for k in one if not (torch.equal(one[k], other[k]) if k != "guidance" else one[k] == other[k])]


@pytest.mark.filterwarnings("ignore:transfer")
def test_fault_15_a_resumed_run_guides_as_an_uninterrupted_one(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = whole
    assert all(g["value"][1] == 24 and g["cosine"][1] == 8 for g in expected["guidance"])
    assert any(g["tripped"] for g in expected["guidance"])
    assert differing(everything(folder, folder / "middle.ckpt", skip=6), expected) == []


@pytest.mark.filterwarnings("ignore:transfer")
def test_a_run_that_lost_its_guidance_would_differ(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The control of the test above; and a checkpoint from before there was guidance can be read."""
    folder, expected = whole
    checkpoint = torch.load(folder / "middle.ckpt", weights_only=True)
    del checkpoint["collaboration"]["guidance"]
    torch.save(checkpoint, tmp_path / "lost.ckpt")
    found = differing(everything(folder, tmp_path / "lost.ckpt", skip=6), expected)
    assert "guidance" in found and any(k.startswith("_agents.beta") for k in found)


# Options that cannot be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TeacherWeights("best"), "teacher_weights.by is 'best'; it must be fixed or value"),  # type: ignore[arg-type]
        (lambda: TeacherWeights(sharpness=-1.0), "teacher_weights.sharpness is -1.0; it must be 0 or more"),
        (lambda: TeacherWeights(memory=0), "teacher_weights.memory is 0; it must be 1 or more"),
        (lambda: AlarmConfig(every=0), "alarm.every is 0; it must be 1 or more"),
        (lambda: AlarmConfig(memory=0), "alarm.memory is 0; it must be 1 or more"),
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
