"""A teacher's folder: what is stored comes back, and nothing that was damaged, forged or hostile is loaded."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import SCORE, TINY, agent, graph, new_network, random_rollout, store
from safetensors.torch import save as save_tensors
from torch import nn
from wide_cartpole import CARTPOLE

from cdrl_pl.agents.certificate import CERTIFICATE, WEIGHTS, load_certificate, save_certificate
from cdrl_pl.agents.certificated import CertificatedAgent
from cdrl_pl.envs import EnvConfig, EnvSpec, resolve
from cdrl_pl.networks import NetworkConfig, PolicyNetwork
from cdrl_pl.storage import atomic as files
from cdrl_pl.storage.verified import CertificateError
from cdrl_pl.training.graph import AgentConfig

Json = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good teacher."""
    store(tmp_path / "teacher", new_network(3))
    return tmp_path / "teacher"


def edit(folder: Path, change: Callable[[Json], Any]) -> None:
    """Changes the certificate's JSON."""
    content = json.loads((folder / CERTIFICATE).read_text())
    change(content)
    (folder / CERTIFICATE).write_text(json.dumps(content))


def forge(folder: Path, weights: bytes) -> None:
    """Other weights, with the checksum that fits them."""
    (folder / WEIGHTS).write_bytes(weights)
    edit(folder, lambda content: content.update(sha256=hashlib.sha256(weights).hexdigest()))


def assert_refused(folder: Path, message: str | None = None) -> None:
    """Refused by name, with the reason, by the loader and by the graph that would use it."""
    with pytest.raises(CertificateError, match=message):
        load_certificate(folder)
    with pytest.raises(CertificateError, match=r"agents.alpha: "):
        graph(agents={"alpha": AgentConfig(certificate=str(folder)), "beta": agent()})


# Round trip


def test_weights_come_back_bit_for_bit(folder: Path) -> None:
    _, weights = load_certificate(folder)
    expected = new_network(3).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], v) for k, v in expected.items())


def test_the_certificate_comes_back(tmp_path: Path) -> None:
    """Tuples, nulls and both scores, of an Atari preset."""
    network = NetworkConfig("conv", channels=2, depth=2, lstm=3)
    spec = EnvSpec((1, 42, 42), "uint8", ("NOOP", "FIRE", "UP"))
    scores = {"sampled": SCORE, "greedy": replace(SCORE, policy="greedy", mean=1 / 3)}
    training = {"env_steps": 2**33, "seed": 1, "threshold": 0.5}
    env = EnvConfig("Bowling-2017")
    saved = save_certificate(tmp_path, PolicyNetwork(network, (1, 42, 42), 3), env, spec, scores, training)
    found, _ = load_certificate(tmp_path)
    assert found == saved
    assert (found.env, found.spec, found.network) == (resolve(env), spec, network)
    assert (found.evaluation, found.training) == (scores, training)


def test_the_agent_of_a_certificate_plays_as_it_was_stored(folder: Path) -> None:
    found, rollout, network = CertificatedAgent(folder), random_rollout(), new_network(3)
    expected = network(rollout.obs, rollout.state, rollout.resets).logits
    assert torch.equal(found(rollout).logits, expected)
    assert found.env == resolve(EnvConfig(CARTPOLE, max_episode_steps=12))


def test_storing_again_replaces_the_teacher(folder: Path) -> None:
    store(folder, new_network(4))
    _, weights = load_certificate(folder)
    assert torch.equal(weights["policy_head.weight"], new_network(4).policy_head.weight)
    assert sorted(p.name for p in folder.iterdir()) == [CERTIFICATE, WEIGHTS]


def test_a_failed_write_leaves_the_old_file_and_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left")

    before = (folder / WEIGHTS).read_bytes()
    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        store(folder, new_network(4))
    assert (folder / WEIGHTS).read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == [CERTIFICATE, WEIGHTS]


# Damage


@pytest.mark.parametrize("sample", range(32))
def test_fault_19_a_flipped_bit_is_refused(folder: Path, sample: int) -> None:
    """32 bytes spread over the file, from its first to its last, another bit in each."""
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[round(sample * (len(content) - 1) / 31)] ^= 1 << sample % 8
    (folder / WEIGHTS).write_bytes(content)
    assert_refused(folder, "SHA-256")


def test_fault_19_weights_of_another_teacher_are_refused(folder: Path, tmp_path: Path) -> None:
    store(tmp_path / "other", new_network(4))
    (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    assert_refused(folder, "SHA-256")


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
@pytest.mark.parametrize("name", [WEIGHTS, CERTIFICATE])
def test_fault_20_a_truncated_file_is_refused(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes().rstrip()
    end = int(keep * len(content)) if keep == 0.5 else int(keep)
    (folder / name).write_bytes(content[:end])
    assert_refused(folder, re.escape(name))


@pytest.mark.parametrize("name", [WEIGHTS, CERTIFICATE])
def test_fault_20_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert_refused(folder, f"{name} cannot be read: No such file")


def test_fault_20_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nobody", "cannot be read")


# Malformed certificates


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"text"', "{}", "\x00", '{"format": 1}', "[" * 100_000])
def test_fault_20_what_is_no_certificate_is_refused(folder: Path, text: str) -> None:
    (folder / CERTIFICATE).write_text(text)
    assert_refused(folder, CERTIFICATE)


def test_fault_20_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / CERTIFICATE).write_bytes(b"\xff\xfe\x80" * 9)
    assert_refused(folder, CERTIFICATE)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_fault_20_another_format_is_refused(folder: Path, version: Any) -> None:
    edit(folder, lambda content: content.update(format=version))
    assert_refused(folder, f"format {version!r}; only 1 can be read")


@pytest.mark.parametrize("field", ["env", "spec", "network", "evaluation", "training", "versions", "sha256"])
def test_fault_20_a_missing_field_is_refused(folder: Path, field: str) -> None:
    edit(folder, lambda content: content.pop(field))
    assert_refused(folder, field)


@pytest.mark.parametrize("record", ["env", "spec", "network"])
def test_fault_20_an_unknown_field_of_a_record_is_refused(folder: Path, record: str) -> None:
    edit(folder, lambda content: content[record].update(class_path="os.system"))
    assert_refused(folder, "class_path")


def test_fault_20_an_unknown_field_of_a_score_is_refused(folder: Path) -> None:
    edit(folder, lambda content: content["evaluation"]["sampled"].update(class_path="os.system"))
    assert_refused(folder, "class_path")


def test_fault_20_an_unknown_field_of_the_certificate_is_refused(folder: Path) -> None:
    edit(folder, lambda content: content.update(class_path="os.system"))
    assert_refused(folder, "class_path")


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        ("spec", "obs_shape", ["a"]),
        ("spec", "obs_shape", 4),
        ("spec", "obs_shape", [4.5]),
        ("spec", "obs_shape", [-4]),
        ("spec", "obs_shape", [0, 4]),
        ("spec", "action_meanings", 2),
        ("spec", "action_meanings", []),
        ("network", "trunk", "transformer"),
        ("network", "trunk", "conv"),
        ("network", "hidden", "8"),
        ("network", "hidden", 8.5),
        ("network", "hidden", -8),
        ("network", "lstm", None),
        ("network", "lstm", 2**70),
    ],
)
def test_fault_20_a_field_of_the_wrong_kind_is_refused(folder: Path, record: str, field: str, value: Any) -> None:
    edit(folder, lambda content: content[record].update({field: value}))
    assert_refused(folder)


# Hostile weights


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
@pytest.mark.parametrize("forged", [False, True])
def test_fault_20_a_pickle_in_place_of_the_weights_has_no_effect(
    folder: Path, tmp_path: Path, how: str, forged: bool
) -> None:
    canary, payload = tmp_path / "canary", tmp_path / "payload"
    if how == "pickle":
        payload.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save({"weights": Canary(canary)}, payload)
    if forged:
        forge(folder, payload.read_bytes())
    else:
        (folder / WEIGHTS).write_bytes(payload.read_bytes())
    assert_refused(folder, "not a safetensors file" if forged else "SHA-256")
    assert not canary.exists()


def test_the_canary_sings(tmp_path: Path) -> None:
    """The control of the test above."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@contextmanager
def little_memory(limit: int = 2**28) -> Iterator[None]:
    """Allocations that would need ``limit`` more bytes of address space fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def header(tensors: dict[str, list[int]]) -> bytes:
    """A safetensors file that claims these shapes and holds next to nothing."""
    entries, offset = {}, 0
    for name, shape in tensors.items():
        size = 4 * int(np.prod(shape, dtype=object))
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


def test_little_memory_notices_a_large_allocation() -> None:
    """The control of the tests below."""
    with little_memory(), pytest.raises((RuntimeError, MemoryError)):
        torch.empty(2**30)


def test_fault_22_a_header_that_claims_a_terabyte_is_refused_before_it_is_allocated(folder: Path) -> None:
    forge(folder, header({"policy_head.weight": [2**19, 2**19]}))
    with little_memory():
        assert_refused(folder, "not a safetensors file")


def test_fault_22_a_header_longer_than_its_file_is_refused(folder: Path) -> None:
    forge(folder, struct.pack("<Q", 2**62) + b"{}")
    with little_memory():
        assert_refused(folder, "not a safetensors file")


@pytest.mark.parametrize(
    ("record", "change"),
    [
        ("network", {"lstm": 2**14}),
        ("network", {"hidden": 2**20}),
        ("network", {"hidden": 2**40}),
        ("network", {"lstm": 2**20}),
        ("network", {"lstm": 2**31}),
        ("spec", {"obs_shape": [2**23]}),
        ("spec", {"obs_shape": [2**62]}),
    ],
)
def test_fault_22_a_certificate_that_claims_a_huge_network_is_refused_before_it_is_allocated(
    folder: Path, record: str, change: Json
) -> None:
    edit(folder, lambda content: content[record].update(change))
    with little_memory(), pytest.raises(CertificateError) as refusal:
        load_certificate(folder)
    assert "allocate" not in str(refusal.value)  # it was not tried


@pytest.mark.parametrize("trunk", ["mlp", "conv", "residual"])
def test_fault_22_a_certificate_that_claims_endless_layers_is_refused_before_they_are_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trunk: str
) -> None:
    built, inner = iter(range(1_000)), nn.Module.__init__

    def count(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if next(built, None) is None:
            pytest.fail("it builds them")
        inner(self, *args, **kwargs)

    shape = [4] if trunk == "mlp" else [1, 42, 42]
    edit(folder, lambda content: content["network"].update(depth=10**9, hidden=1, channels=1, trunk=trunk))
    edit(folder, lambda content: content["spec"].update(obs_shape=shape))
    monkeypatch.setattr(nn.Module, "__init__", count)
    with pytest.raises(CertificateError):
        load_certificate(folder)


def test_fault_22_a_file_larger_than_any_teacher_is_not_read(folder: Path) -> None:
    with open(folder / WEIGHTS, "r+b") as file:
        file.truncate(2**40)  # a hole: it takes no space
    with little_memory():
        assert_refused(folder, "at most")


def test_fault_22_many_small_tensors_are_refused_in_few_words(folder: Path) -> None:
    forge(folder, save_tensors({f"t{i}": torch.zeros(1) for i in range(20_000)}))
    with pytest.raises(CertificateError) as refusal:
        load_certificate(folder)
    assert len(str(refusal.value)) < 5_000


# Other networks


def test_weights_of_another_structure_are_refused(folder: Path) -> None:
    other = PolicyNetwork(replace(TINY, hidden=9), (4,), 2)
    forge(folder, save_tensors(dict(other.state_dict())))
    assert_refused(folder, r"does not hold the network that the certificate names; different: .*trunk.1.weight")


def test_a_certificate_of_another_structure_is_refused(folder: Path) -> None:
    edit(folder, lambda content: content["network"].update(lstm=5))
    assert_refused(folder, r"different: .*lstm.weight_ih_l0")


def test_fault_23_a_certificate_of_other_actions_is_refused(folder: Path) -> None:
    edit(folder, lambda content: content["spec"].update(action_meanings=["a", "b", "c"]))
    assert_refused(folder, r"different: distill_head.bias, distill_head.weight, policy_head.bias, policy_head.weight")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bfloat16])
def test_weights_of_another_type_are_refused(folder: Path, dtype: torch.dtype) -> None:
    forge(folder, save_tensors({k: v.to(dtype) for k, v in new_network(3).state_dict().items()}))
    assert_refused(folder, "does not hold the network")


@pytest.mark.parametrize("extra", [True, False])
def test_a_tensor_too_many_or_too_few_is_refused(folder: Path, extra: bool) -> None:
    weights = dict(new_network(3).state_dict())
    if extra:
        weights["more"] = torch.zeros(1)
    else:
        weights.pop("value_head.bias")
    forge(folder, save_tensors(weights))
    assert_refused(folder, "different: more" if extra else "different: value_head.bias")


def test_a_forged_but_fitting_teacher_loads(folder: Path) -> None:
    """The control of the tests above: only what does not fit is refused."""
    forge(folder, save_tensors(dict(new_network(9).state_dict())))
    assert torch.equal(load_certificate(folder)[1]["value_head.bias"], new_network(9).value_head.bias)
