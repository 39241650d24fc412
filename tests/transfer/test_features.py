"""An F that reads the teacher's features: what it gets, what logits do not tell it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import (
    TINY,
    FixedData,
    Recorder,
    agent,
    fit,
    graph,
    new_network,
    random_batch,
    random_rollout,
    spread,
    store,
)
from graphs import transfer as edge
from resuming import SaveAt, differences, final_state
from wide_cartpole import WIDE

from callbacks import StoredAlignment
from cdrl_pl.checks import ConfigError
from cdrl_pl.distributions import action_statistics
from cdrl_pl.presets import PRESETS
from cdrl_pl.storage.verified import CertificateError
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.training.graph import AgentConfig
from cdrl_pl.transfer.alignment import AlignmentConfig
from cdrl_pl.transfer.alignment_file import load_alignment
from cdrl_pl.transfer.transfer import Transfer
from cdrl_pl.types import TeacherOutput

D = TINY.lstm  # what the heads of these networks read
READS = ("logits", "features", "both")


def make(folder: Path, read: Any, T_max: int = 120, mute: bool = False, file: str | None = None, **options: Any) -> Any:
    """A certificated teacher of five actions and a student of two; a mute one says the same in every state."""
    expert = new_network(3, actions=5)
    if mute:
        with torch.no_grad():
            expert.policy_head.weight.zero_()
    store(folder / "expert", expert, WIDE)
    made = edge(**options)
    made.alignment.input, made.alignment.file = read, file
    module = graph(
        made, agents={"alpha": AgentConfig(certificate=str(folder / "expert")), "beta": agent()}, T_max=T_max
    )
    spread(module.agents["beta"].network)
    return module


def said(module: Collaboration, seed: int = 0) -> TeacherOutput:
    (transfer,) = module.transfers
    transfer.teacher.states.clear()
    return transfer.ask(random_rollout(seed), *module.ends(transfer))


def changed(one: TeacherOutput, part: str) -> TeacherOutput:
    return one._replace(**{part: getattr(one, part) + 1.0})


def test_features_are_what_the_teachers_heads_read(tmp_path: Path) -> None:
    module = make(tmp_path, "features")
    output, head = said(module), module.agents["alpha"].network.policy_head
    assert output.features is not None and output.features.shape == (5, 2, D)
    assert torch.equal(head(output.features), output.logits)
    assert torch.equal(output.logits, said(make(tmp_path, "logits")).logits)
    assert said(make(tmp_path, "logits")).features is None  # nobody reads them


@pytest.mark.parametrize(("read", "inputs"), [("logits", 5), ("features", D), ("both", 5 + D)])
def test_f_reads_what_it_is_told_and_nothing_else(tmp_path: Path, read: Any, inputs: int) -> None:
    module = make(tmp_path, read)
    (transfer,) = module.transfers
    assert transfer.alignment.network.inputs == inputs
    output = said(make(tmp_path, "both"))  # has both parts
    if read == "logits":
        output = output._replace(features=None)

    def aligned(output: TeacherOutput) -> torch.Tensor:
        found: torch.Tensor = transfer.alignment(transfer.alignment.reads(output))
        return found

    for part in ("logits", "features"):
        if getattr(output, part) is not None:
            heard = not torch.equal(aligned(changed(output, part)), aligned(output))
            assert heard == (read in (part, "both"))


@pytest.mark.parametrize("read", READS)
def test_a_teacher_whose_logits_say_nothing_can_still_be_read_by_its_features(tmp_path: Path, read: Any) -> None:
    """F learns the student's policy as far as what it reads tells states apart: not at all from constant logits."""
    module = make(tmp_path, read, T_max=3000, mute=True, T2=10_000, align_lr=3e-2)
    module.agents["beta"].learner.lr = 1e-9  # the policy that F imitates stays
    fit(module, FixedData(random_batch(module, 3)), tmp_path)
    (transfer,) = module.transfers
    aligned = transfer.alignment(transfer.alignment.reads(said(module, 3)))
    _, information = action_statistics(aligned)
    assert (information > 0.005) == (read != "logits")


@pytest.mark.parametrize("control", ["random", "shuffled", "constant", "lagged", "own"])
def test_every_control_gives_features_in_the_teachers_place(tmp_path: Path, control: Any) -> None:
    module, plain = make(tmp_path, "both", control=control), said(make(tmp_path, "both"))
    found = said(module)
    assert found.features is not None and plain.features is not None and found.features.shape == (5, 2, D)
    assert not torch.equal(found.features, plain.features)
    if control == "constant":
        assert not found.features.any() and not found.logits.any()
    if control == "shuffled":  # whole rows: logits and features stay together
        head = module.agents["alpha"].network.policy_head
        torch.testing.assert_close(head(found.features), found.logits)
    fit(module, FixedData(random_batch(module)), tmp_path)


@pytest.mark.parametrize("read", ["features", "both"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, read: Any) -> None:
    def run(**options: Any) -> Any:
        module = make(tmp_path, read, T1=20, T2=60)
        batches = [random_batch(module, seed) for seed in range(12)]
        start = int(options["ckpt_path"].stem) // 10 if "ckpt_path" in options else 0
        trainer = fit(module, FixedData(*batches[start:]), tmp_path, SaveAt(tmp_path, 40, 80), **options)
        return final_state(module, trainer)

    whole = run()
    for clock in (40, 80):
        assert differences(run(ckpt_path=tmp_path / f"{clock}.ckpt"), whole) == []


def test_copies_are_taught_by_what_the_teacher_said_of_them(tmp_path: Path) -> None:
    output = said(make(tmp_path, "both"))
    one = output.of(slice(1, 2))
    assert one.features is not None and output.features is not None
    assert torch.equal(one.logits, output.logits[:, 1:]) and torch.equal(one.features, output.features[:, 1:])


# Stored


def test_a_stored_f_is_read_back_by_who_reads_the_same(tmp_path: Path) -> None:
    module = make(tmp_path, "both")
    fit(module, FixedData(random_batch(module)), tmp_path, StoredAlignment())
    file = tmp_path / "alignment" / "alpha-beta" / "alignment.safetensors"
    record, _ = load_alignment(file)
    assert (record.input, record.features, record.inputs) == ("both", D, 5 + D)
    again, recorder = make(tmp_path, "both", file=str(file)), Recorder()
    output = said(module)
    for one in (module, again):
        (transfer,) = one.transfers
        found = transfer.alignment(transfer.alignment.reads(output))
        assert torch.equal(found, module.transfers[0].alignment(module.transfers[0].alignment.reads(output)))
    fit(again, FixedData(random_batch(again)), tmp_path, recorder)
    assert recorder.changed_at("_transfers.alpha-beta.alignment.") == []


def test_a_stored_f_that_reads_something_else_is_refused(tmp_path: Path) -> None:
    module = make(tmp_path, "features")
    fit(module, FixedData(random_batch(module)), tmp_path, StoredAlignment())
    file = str(tmp_path / "alignment" / "alpha-beta" / "alignment.safetensors")
    with pytest.raises(
        CertificateError, match=rf"reads {D} numbers, the teacher's features; .* is 'logits', 5 numbers"
    ):
        make(tmp_path, "logits", file=file)


# Refused


@pytest.mark.parametrize("kind", ["identity", "known", "some.Module"])
def test_only_a_deep_alignment_reads_features(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"alignment.input is 'features'; it must be logits, but under kind deep"):
        AlignmentConfig(kind, "features")


def test_an_input_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"alignment.input is 'states'; it must be logits or features or both"):
        AlignmentConfig(input="states")  # type: ignore[arg-type]


def test_a_teacher_of_logits_alone_is_refused() -> None:
    teacher, student = new_network(1, actions=5), new_network(2)
    teacher.config = type(teacher.config)(trunk="mlp", lstm=0)
    object.__setattr__(teacher.config, "trunk", "onnx")
    made = edge()
    made.alignment.input = "features"
    with pytest.raises(
        ConfigError, match=r"transfer alpha-beta: alignment.input is 'features', but the teacher is an O"
    ):
        Transfer(made, teacher, student, PRESETS["paper"])
