"""The paper's text and its program: the table of where they differ, and each row by itself."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from graphs import agent, copy_of, fit, graph, logits_on, parts_changed, played, random_rollout, spread, step_once
from preset_graphs import TABLE, make
from torch import Tensor
from torch.testing import assert_close
from wide_cartpole import WIDE

from cdrl_pl.agents.student import Student
from cdrl_pl.networks import NetworkConfig
from cdrl_pl.presets import PRESETS, Preset, PresetOverrides, resolve_preset
from cdrl_pl.training.batch import Batch
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.transfer.transfer import Transfer, TransferConfig
from cdrl_pl.types import PolicyOutput, Rollout, TeacherOutput

NAMES = ("paper", "code")


def only_transfer(module: Collaboration) -> Transfer:
    (found,) = module.transfers
    return found


def outputs(module: Collaboration, rollout: Rollout) -> tuple[PolicyOutput, Tensor]:
    """What the student says on its rollout, and the teacher's teacher_logits, with a pronounced F."""
    torch.manual_seed(4)
    for parameter in only_transfer(module).alignment.parameters():
        torch.nn.init.normal_(parameter)
    return module.agents["beta"](rollout), logits_on(module, rollout)


def slow_kl(target: Tensor, student: Tensor, tau: float = 1.0) -> Tensor:
    """Per step, by the definition."""
    p, q = (target.detach() / tau).double().exp(), student.detach().double().exp()
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    return (p * (p / q).log()).sum(-1)


# The table


@pytest.mark.parametrize(("index", "preset"), enumerate(NAMES))
def test_a_preset_is_its_column_of_the_table(index: int, preset: str) -> None:
    assert {f.name: getattr(PRESETS[preset], f.name) for f in fields(Preset)} == {
        name: values[index] for name, values in TABLE.items()
    }


def test_the_presets_differ_in_every_field() -> None:
    paper, code = (PRESETS[preset] for preset in NAMES)
    assert [f.name for f in fields(Preset) if getattr(paper, f.name) == getattr(code, f.name)] == []


def test_the_default_is_the_text() -> None:
    assert Collaboration({"beta": agent()}).preset == PRESETS["paper"]


@pytest.mark.parametrize("name", [f.name for f in fields(PresetOverrides)])
def test_an_override_changes_its_row_alone(name: str) -> None:
    theirs = getattr(PRESETS["code"], name)
    expected = replace(PRESETS["paper"], **{name: theirs})
    assert resolve_preset("paper", PresetOverrides(**{name: theirs})) == expected


def test_every_row_but_the_schedules_can_be_overridden() -> None:
    assert {f.name for f in fields(Preset)} - {f.name for f in fields(PresetOverrides)} == {"T1", "T2", "stop"}


def test_fault_28_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="preset is 'text'; it must be one of paper, code"):
        graph(preset="text")


# Each row


@pytest.mark.parametrize(("preset", "expected"), [("paper", 0.0), ("code", math.exp(-1) - 1)])
def test_activation(preset: str, expected: float) -> None:
    """A layer that gives -1 is cut by ReLU and bent by ELU."""
    layers = only_transfer(make(preset)).alignment.network.layers  # type: ignore[union-attr]
    assert_close(layers[1](torch.tensor([-1.0])).item(), expected)  # type: ignore[index, operator]


def test_alignment_kl() -> None:
    """KL(student || F) in the text, KL(F || student) in the program."""
    rollout, found, expected = random_rollout(ends=0.0), {}, {}
    for preset in NAMES:
        module = make(preset, row="alignment_kl")
        output, teacher_logits = outputs(module, rollout)
        policy, aligned = output.logits[:5], only_transfer(module).alignment(teacher_logits)
        kl = slow_kl(policy, aligned) if preset == "paper" else slow_kl(aligned, policy)
        expected[preset] = kl.mean(1).sum().item()
        found[preset] = only_transfer(module).alignment_loss(output, TeacherOutput(teacher_logits)).item()
    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(found["paper"] - found["code"]) > 0.1


@pytest.mark.parametrize("loss", ["alignment", "distillation"])
def test_use_temperature(loss: str) -> None:
    """tau = 4 divides the targets in the text and nothing in the program."""
    rollout, found, expected = random_rollout(ends=0.0), {}, {}
    for preset, tau in zip(NAMES, (4.0, 1.0), strict=True):
        module = make(preset, row="use_temperature", temperature=4.0)
        output, teacher_logits = outputs(module, rollout)
        edge, aligned = only_transfer(module), only_transfer(module).alignment(teacher_logits)
        if loss == "alignment":
            expected[preset] = slow_kl(output.logits[:5], aligned, tau).mean(1).sum().item()
            found[preset] = edge.alignment_loss(output, TeacherOutput(teacher_logits)).item()
        else:
            expected[preset] = slow_kl(aligned, output.distill_logits[:5], tau).mean(1).sum().item()
            found[preset] = edge.distillation_loss(output, aligned).item()
    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(found["paper"] - found["code"]) > 0.1


@pytest.mark.parametrize("loss", ["alignment", "distillation"])
def test_the_program_has_no_temperature_at_all(loss: str) -> None:
    rollout, found = random_rollout(ends=0.0), []
    for tau in (1.0, 4.0):
        module = make("code", temperature=tau)
        output, teacher_logits = outputs(module, rollout)
        edge = only_transfer(module)
        aligned = edge.alignment(teacher_logits)
        found.append(
            edge.alignment_loss(output, TeacherOutput(teacher_logits))
            if loss == "alignment"
            else edge.distillation_loss(output, aligned)
        )
    assert_close(found[0], found[1])


@pytest.mark.parametrize("loss", ["alignment", "distillation"])
def test_kl_reduction(loss: str) -> None:
    """The text sums over the seven steps, the program averages over them."""
    rollout, found = random_rollout(steps=7), []
    for preset in NAMES:
        module = make(preset, row="kl_reduction")
        output, teacher_logits = outputs(module, rollout)
        edge = only_transfer(module)
        aligned = edge.alignment(teacher_logits)
        found.append(
            edge.alignment_loss(output, TeacherOutput(teacher_logits))
            if loss == "alignment"
            else edge.distillation_loss(output, aligned)
        )
    assert_close(found[0], 7 * found[1])


def test_the_reinforcement_losses_are_sums_in_both(tmp_path: Path) -> None:
    """So the first gradient of a graph without transfers is the same; nothing is cut by a time limit here."""
    gradients = []
    for preset in NAMES:
        module = graph(agents={"beta": agent()}, preset=preset)
        rollout = random_rollout(ends=0.0)
        step_once(module, tmp_path, {"beta": rollout})
        gradients.append([p.grad for p in module.parameters() if p.grad is not None])
    assert_close(gradients[0], gradients[1])


def test_teacher_state() -> None:
    """The text's teacher begins with a memory of its own, the program's with the student's."""
    rollout = random_rollout(ends=0.0)
    states = {"paper": torch.zeros_like(rollout.state), "code": rollout.state}
    found, expected = {}, {}
    for preset in NAMES:
        module = make(preset, row="teacher_state")
        network = module.agents["alpha"].network
        with torch.no_grad():
            expected[preset] = network(rollout.obs, states[preset], rollout.resets).logits[:5]
        found[preset] = logits_on(module, rollout)
        assert_close(found[preset], expected[preset])
    assert (found["paper"] - found["code"]).abs().max() > 1e-3


def distill_step(folder: Path, preset: str, weight: float = 1.0) -> tuple[Collaboration, Tensor]:
    """One step of a student of rate 1e-2; how far its distillation layer's bias went."""
    module = make(preset, row="distill_step", weight=weight)
    before = copy_of(module)
    step_once(module, folder)
    name = "_agents.beta.network.distill_head.bias"
    return module, (module.state_dict()[name] - before[name]).abs()


@pytest.mark.parametrize(("preset", "rate"), [("paper", 1e-2), ("code", 1e-4)])
def test_distill_step_has_the_students_rate_or_the_programs_own(tmp_path: Path, preset: str, rate: float) -> None:
    """Adam's first step is as long as its rate."""
    _, moved = distill_step(tmp_path, preset)
    assert_close(moved, torch.full_like(moved, rate), rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("weight", [0.0, 50.0])
def test_distill_step_has_no_weight_in_the_program(weight: float) -> None:
    with pytest.raises(ValueError, match=r"a weight other than 1 .* need preset_overrides.distill_step: joint"):
        make("code", row="distill_step", weight=weight)


def test_distill_step_heeds_the_weight_in_the_text(tmp_path: Path) -> None:
    weights = [copy_of(distill_step(tmp_path, "paper", weight)[0]) for weight in (1.0, 50.0)]
    assert {"trunk", "lstm"} <= parts_changed(*weights, "_agents.beta.network.")


def test_distill_step_of_the_program_comes_after_a_reinforcement_step_of_its_own(tmp_path: Path) -> None:
    """Then the policy and value layers end where a student without a teacher does."""
    module, _ = distill_step(tmp_path, "code")
    alone = graph()
    for i, found in enumerate(alone.agents.values()):
        spread(found.network, i)
    step_once(alone, tmp_path)
    changed = parts_changed(
        copy_of(module.agents["beta"].network), copy_of(alone.agents["beta"].network)
    )  # fmt: skip
    assert changed == {"trunk", "lstm", "distill_head"}


def test_distill_step_of_the_program_reads_the_student_after_its_reinforcement_step(tmp_path: Path) -> None:
    module = make("code", row="distill_step")
    edge, student, seen = only_transfer(module), module.agents["beta"], []
    inner = edge.distillation_loss

    def spy(output: PolicyOutput, aligned: Tensor, weights: Tensor | None) -> Tensor:
        seen.append((output, copy_of(student)))
        return inner(output, aligned)

    edge.distillation_loss = spy  # type: ignore[method-assign]
    before = copy_of(student)
    batch = step_once(module, tmp_path)
    ((output, weights),) = seen
    assert parts_changed(before, weights, "network.") == {"trunk", "lstm", "policy_head", "value_head"}
    again = graph().agents["beta"]
    again.load_state_dict(weights)
    assert_close(output.distill_logits, again(batch["beta"]).distill_logits)


def test_distill_step_of_the_program_is_clipped_at_40(tmp_path: Path) -> None:
    wide = NetworkConfig("mlp", depth=1, hidden=8, lstm=0)
    agents = {"alpha": agent(WIDE, wide), "beta": agent(network=wide)}
    module = make("code", row="distill_step", agents=agents)
    network = module.agents["beta"].network
    with torch.no_grad():
        network.trunk[1].weight.mul_(1e3)
    step_once(module, tmp_path)
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    assert module.run_log.latest["grad_norm/distill/alpha-beta"] > 100
    assert_close(torch.cat(gradients).norm().item(), 40.0, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("preset", NAMES)
def test_order(tmp_path: Path, preset: str) -> None:
    """The text distils what F says after its step, the program what it said before."""
    module = make(preset, row="order", align_lr=0.1)
    edge, before = only_transfer(module), copy_of(only_transfer(module).alignment)
    said_by_teacher: list[Tensor] = []
    distilled: list[Tensor] = []
    ask, loss = edge.ask, edge.distillation_loss

    def watched_ask(*ends: Any) -> TeacherOutput:
        said_by_teacher.append(ask(*ends).logits)
        return TeacherOutput(said_by_teacher[-1])

    def watched_loss(output: PolicyOutput, aligned: Tensor, weights: Tensor | None) -> Tensor:
        distilled.append(aligned.clone())
        return loss(output, aligned)

    edge.ask, edge.distillation_loss = watched_ask, watched_loss  # type: ignore[method-assign]
    step_once(module, tmp_path)
    with torch.no_grad():
        said = {"paper": edge.alignment(said_by_teacher[0])}
        edge.alignment.load_state_dict(before)
        said["code"] = edge.alignment(said_by_teacher[0])
    assert (said["paper"] - said["code"]).abs().max() > 1e-2
    assert_close(distilled[0], said[preset])


@pytest.mark.parametrize("preset", NAMES)
def test_schedule(preset: str) -> None:
    schedule = TransferConfig("alpha", "beta").schedule(PRESETS[preset], aligns=True)
    index = NAMES.index(preset)
    assert (schedule.T1, schedule.T2, schedule.stop) == tuple(TABLE[name][index] for name in ("T1", "T2", "stop"))


@pytest.mark.parametrize("preset", NAMES)
def test_concatenate(tmp_path: Path, preset: str) -> None:
    """While the learner holds its first rollout, the worker fills every other slot."""
    lengths = []

    class Wait(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, index: int) -> None:
            lengths.append(batch.rollouts["beta"].steps)
            pool = trainer.datamodule.pools["beta"]  # type: ignore[attr-defined]
            if index == 0:
                pool.worker_group.receive_until(lambda: len(pool._ready) + len(pool._held) == 3, "a full queue")

    module = graph(agents={"beta": agent()}, preset=preset, T_max=20)
    fit(module, played(deterministic=False, queue=3), tmp_path, Wait())
    assert max(lengths) == 5 if preset == "paper" else max(lengths) > 5


def test_concatenated_rollouts_do_not_break_the_deterministic_mode(tmp_path: Path) -> None:
    """It plays in rounds, so nothing ever waits."""
    module = graph(agents={"beta": agent()}, preset="code", T_max=20)
    fit(module, played(), tmp_path)
    assert module.env_steps["beta"] == 20


@pytest.mark.parametrize("preset", NAMES)
def test_time_limit(tmp_path: Path, preset: str) -> None:
    """One step, cut by a time limit before a state worth 100: only the text's student sees that worth."""
    module = graph(agents={"beta": agent(max_grad_norm=1e6)}, preset=preset)
    student = module.agents["beta"]
    assert isinstance(student, Student)
    cut = torch.tensor([[True]])
    rollout = random_rollout(steps=1, copies=1, ends=0.0)
    rollout = replace(rollout, truncated=cut, final_values=torch.tensor([[100.0]]))
    value = student(rollout).values[0, 0].item()
    step_once(module, tmp_path, {"beta": rollout})
    ret = rollout.rewards.item() + (0.99 * 100 if preset == "paper" else 0.0)
    assert module.run_log.latest["value_loss/beta"] == pytest.approx((ret - value) ** 2, rel=1e-4)
