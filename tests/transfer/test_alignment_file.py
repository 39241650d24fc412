"""A stored alignment: it comes back as it was, only where it fits, and is refused where it cannot be trusted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import FixedData, Recorder, agent, fit, graph, logits_on, random_batch, random_rollout, transfer
from safetensors.torch import save as save_tensors
from wide_cartpole import WIDE

from callbacks import StoredAlignment
from cdrl_pl.presets import PRESETS
from cdrl_pl.storage.verified import CertificateError, sha256
from cdrl_pl.transfer.alignment import Alignment, AlignmentConfig
from cdrl_pl.transfer.alignment_file import load_alignment, save_alignment

MEANINGS = (tuple("01234"), tuple("01"))
NAME = "alignment.safetensors"


def new(**options: Any) -> Alignment:
    return Alignment(AlignmentConfig(hidden=8, depth=2, **options), 5, 2, PRESETS["paper"])


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    save_alignment(tmp_path / NAME, new().network, MEANINGS, {"env_steps": 7})
    return tmp_path / NAME


def load(path: Path, meanings: Any = MEANINGS) -> Alignment:
    return Alignment(AlignmentConfig(file=str(path)), len(meanings[0]), len(meanings[1]), PRESETS["paper"], meanings)


def rewrite(path: Path, **changes: Any) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, **changes}))


# As it was


def test_a_stored_alignment_comes_back_with_its_structure(tmp_path: Path) -> None:
    torch.manual_seed(3)
    saved = new()
    save_alignment(tmp_path / NAME, saved.network, MEANINGS, {"env_steps": 2**33})
    found = load(tmp_path / NAME)
    teacher_logits = torch.randn(3, 2, 5)
    assert torch.equal(found(teacher_logits), saved(teacher_logits))
    record, _ = load_alignment(tmp_path / NAME)
    assert (record.teacher, record.student, record.hidden, record.depth) == (*MEANINGS, 8, 2)
    assert record.training == {"env_steps": 2**33} and record.activation == "relu"


def test_it_stays_as_it_is(stored: Path) -> None:
    found = load(stored)
    assert not found.trainable and not any(p.requires_grad for p in found.parameters())


def test_a_student_learns_through_a_frozen_alignment_without_t1(stored: Path, tmp_path: Path) -> None:
    edge = transfer(T1=None, T2=20, stop=90)
    edge.alignment = AlignmentConfig(file=str(stored))
    module, recorder = graph(edge, agents={"alpha": agent(WIDE), "beta": agent()}), Recorder()
    assert module.transfers[0].schedule.T1 is None
    trainer = fit(module, FixedData(random_batch(module)), tmp_path, recorder)
    assert recorder.changed_at("_transfers.alpha-beta.alignment.") == []
    assert recorder.changed_at("_agents.beta.network.distill_head.")[0] == 20
    assert len(trainer.optimizers) == 2  # none for F


def test_the_callback_stores_what_was_trained(tmp_path: Path) -> None:
    module = graph(transfer(), agents={"alpha": agent(WIDE), "beta": agent()})
    fit(module, FixedData(random_batch(module)), tmp_path, StoredAlignment())
    found = load(tmp_path / "alignment" / "alpha-beta" / NAME)
    teacher_logits = logits_on(module, random_rollout())
    assert torch.equal(found(teacher_logits), module.transfers[0].alignment(teacher_logits))
    record, _ = load_alignment(tmp_path / "alignment" / "alpha-beta" / NAME)
    assert record.training["env_steps"] == 120 and record.training["T1"] == 0


def test_the_callback_refuses_a_graph_without_an_alignment_to_train(tmp_path: Path) -> None:
    module = graph(transfer(kind="identity"), agents={"alpha": agent(), "beta": agent()})
    with pytest.raises(ValueError, match="StoredAlignment: no transfer has an alignment function to train"):
        fit(module, FixedData(random_batch(module)), tmp_path, StoredAlignment())


# Only where it fits


@pytest.mark.parametrize(
    "meanings", [(tuple("01"), tuple("01")), (tuple("01234"), tuple("10")), (tuple("01234"), tuple("012"))]
)
def test_fault_23_an_alignment_for_other_actions_is_refused(stored: Path, meanings: Any) -> None:
    with pytest.raises(CertificateError, match=r"maps actions \('0', .* the transfer's are \('0'"):
        load(stored, meanings)


def test_fault_28_an_identity_from_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alignment.file is 'x', but alignment.kind is 'identity'; only 'deep'"):
        AlignmentConfig("identity", file="x")


def test_an_identity_is_nothing_to_store(tmp_path: Path) -> None:
    identity = Alignment(AlignmentConfig("identity"), 2, 2, PRESETS["paper"])
    with pytest.raises(ValueError, match="only an alignment network can be stored"):
        save_alignment(tmp_path / NAME, identity.network, (tuple("01"), tuple("01")), {})


# Refused


@pytest.mark.parametrize("sample", range(8))
def test_fault_19_a_flipped_bit_is_refused(stored: Path, sample: int) -> None:
    content = bytearray(stored.read_bytes())
    content[round(sample * (len(content) - 1) / 7)] ^= 1 << sample
    stored.write_bytes(content)
    with pytest.raises(CertificateError, match="SHA-256"):
        load(stored)


def test_fault_20_a_pickle_is_refused_and_not_run(stored: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "canary",))

    stored.write_bytes(pickle.dumps(Bomb()))
    rewrite(stored, sha256=sha256(stored.read_bytes()))
    with pytest.raises(CertificateError, match="not a safetensors file"):
        load(stored)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"hidden": 9}, "does not hold the alignment"),
        ({"hidden": 2**40}, "refused"),
        ({"hidden": "8"}, "AlignmentRecord.hidden"),
        ({"activation": "tanh"}, "AlignmentRecord.activation"),
        ({"teacher": []}, "refused"),
        ({"student": [1, 2]}, "AlignmentRecord.student"),
        ({"class_path": "os.system"}, "AlignmentRecord has no class_path"),
        ({"sha256": "0"}, "SHA-256"),
    ],
)
def test_fault_22_a_record_that_does_not_fit_is_refused(stored: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(stored, **changes)
    with pytest.raises(CertificateError, match=message):
        load(stored)


def test_other_tensors_are_refused(stored: Path) -> None:
    stored.write_bytes(save_tensors({"layers.0.weight": torch.zeros(1)}))
    rewrite(stored, sha256=sha256(stored.read_bytes()))
    with pytest.raises(CertificateError, match="does not hold the alignment that its record names"):
        load(stored)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_fault_18_a_damaged_record_is_refused(stored: Path, text: str) -> None:
    stored.with_suffix(".json").write_text(text)
    with pytest.raises(CertificateError, match=r"alignment.json"):
        load(stored)


@pytest.mark.parametrize("name", ["missing.safetensors", "folder"])
def test_a_path_that_is_no_stored_alignment_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match=r"a stored alignment is a .safetensors file with a .json"):
        load(tmp_path / name)


def test_the_refusal_names_the_transfer(stored: Path) -> None:
    edge = transfer()
    edge.alignment = AlignmentConfig(file=str(stored))
    with pytest.raises(ValueError, match=r"transfer alpha-beta: alignment.file"):
        graph(edge, agents={"alpha": agent(), "beta": agent()})
