"""Hostile files: each is refused by name, and nothing of it happens."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import REPOSITORY

from cdrl_pl.importing import archive
from cdrl_pl.importing.archive import Archive, ImportedFileError
from cdrl_pl.importing.sb3 import read_sb3
from cdrl_pl.importing.tensors import checked_state, read_statistics, unpickled

REAL = REPOSITORY / "tests" / "data" / "sb3" / "ppo.zip"


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def real() -> dict[str, bytes]:
    with zipfile.ZipFile(REAL) as file:
        return {name: file.read(name) for name in file.namelist()}


def archived(path: Path, members: dict[str | zipfile.ZipInfo, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ("../../escaped", "leaves its folder"),
        ("/escaped", "leaves its folder"),
        ("C:\\escaped", "leaves its folder"),
        ("..\\escaped", "leaves its folder"),
        (link("policy.pth"), "is a link"),
    ],
)
def test_a_member_that_would_land_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str | zipfile.ZipInfo, said: str
) -> None:
    (inside := tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(inside)
    members: dict[str | zipfile.ZipInfo, bytes] = {**real(), member: b"harm"}
    if isinstance(member, zipfile.ZipInfo):
        del members["policy.pth"]
    path = archived(tmp_path / "hostile.zip", members)
    with pytest.raises(ImportedFileError, match=said):
        read_sb3(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "hostile.zip"]


def test_a_bomb_is_refused_before_it_is_blown_up(tmp_path: Path) -> None:
    path = archived(tmp_path / "bomb.zip", {**real(), "data": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    with pytest.raises(ImportedFileError, match=r"'data', which grows from [\d,]+ to 67,108,864 bytes"):
        read_sb3(path)


def test_a_member_that_lies_about_its_size_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    path = archived(tmp_path / "liar.zip", {"data": os.urandom(5000)})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # where its size is told, twice
        at = content.index(signature) + offset
        content[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    with pytest.raises(ImportedFileError, match="'data'"):
        Archive(path).read("data", 50)


def test_too_much_in_all_and_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 10_000)
    with pytest.raises(ImportedFileError, match=r"holds [\d,]+ bytes; at most 10,000"):
        read_sb3(REAL)
    with pytest.raises(ImportedFileError, match="has 101 members; at most 100"):
        read_sb3(archived(tmp_path / "many.zip", {str(i): b"" for i in range(101)}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = archived(tmp_path / "twice.zip", real())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("policy.pth", b"another")
    with pytest.raises(ImportedFileError, match=r"must have one member 'policy\.pth'"):
        read_sb3(path)


def test_pickled_weights_are_not_unpickled(tmp_path: Path) -> None:
    harm, content = tmp_path / "harm", BytesIO()
    torch.save({"action_net.weight": Trap(harm)}, content)
    for weights in (content.getvalue(), pickle.dumps(Trap(harm))):
        path = archived(tmp_path / "hostile.zip", {**real(), "policy.pth": weights})
        with pytest.raises(ImportedFileError, match=r"policy\.pth is more than tensors, or damaged; refused"):
            read_sb3(path)
    assert not harm.exists()
    with pytest.raises(ImportedFileError, match=r"refused: it names posix\.mkdir$"):
        unpickled("x", content.getvalue())
    pickle.loads(pickle.dumps(Trap(harm)))  # the trap works
    assert harm.exists()


def test_what_is_pickled_in_the_data_is_never_looked_at(tmp_path: Path) -> None:
    import base64

    harm, members = tmp_path / "harm", real()
    data = json.loads(members["data"])
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(pickle.dumps(Trap(harm))).decode()
    path = archived(tmp_path / "hostile.zip", {**members, "data": json.dumps(data).encode()})
    assert read_sb3(path).num_actions == 2
    assert not harm.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": b"[1]"}, "data must be an object"),
        ({"data": b"{"}, "data is no JSON"),
        ({"data": b"[" * 100_000}, "data is no JSON"),
        ({"policy.pth": b"PK"}, "more than tensors, or damaged"),
        ({"policy.pth": b""}, "more than tensors, or damaged"),
    ],
)
def test_a_damaged_member_is_named(tmp_path: Path, change: dict[str, bytes], said: str) -> None:
    with pytest.raises(ImportedFileError, match=said):
        read_sb3(archived(tmp_path / "damaged.zip", {**real(), **change}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no more", b"a text"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.zip").write_bytes(content)
    with pytest.raises(ImportedFileError, match=r"file.zip is no zip file"):
        read_sb3(tmp_path / "file.zip")
    with pytest.raises(ImportedFileError, match=r"other.zip is no zip file that can be read: No such file"):
        read_sb3(tmp_path / "other.zip")


def test_a_state_of_anything_but_finite_tensors_is_refused() -> None:
    with pytest.raises(ImportedFileError, match="x must hold tensors by name"):
        checked_state("x", [torch.zeros(1)])
    with pytest.raises(ImportedFileError, match="x: a is not finite"):
        checked_state("x", {"a": torch.tensor([torch.inf])})
    numbers = {"a": torch.ones(1), "b": np.float64(2.5), "c": np.int64(3), "d": [1, "text", None]}
    assert unpickled("x", saved(numbers)) == numbers
    with pytest.raises(ImportedFileError, match="x is more than tensors, or damaged; refused"):
        unpickled("x", saved({"a": np.array([{}, None], object)}))


def saved(value: Any) -> bytes:
    torch.save(value, content := BytesIO())
    return content.getvalue()


# Statistics


def statistics(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "seen.npz", **arrays)
    return folder / "seen.npz"


def test_statistics_are_read_from_arrays_or_json(tmp_path: Path) -> None:
    path = statistics(tmp_path, mean=np.array([1.0, 2.0]), var=np.array([3.0, 4.0]))
    found = {name: value.tolist() for name, value in read_statistics(path, 2).items()}
    assert found == {"mean": [1.0, 2.0], "var": [3.0, 4.0], "epsilon": [1e-8], "clip": [10.0]}
    (path := tmp_path / "seen.json").write_text('{"mean": [1, 2], "var": [3, 4], "clip": 5}')
    assert {name: value.tolist() for name, value in read_statistics(path, 2).items()} == {**found, "clip": [5.0]}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mean": np.zeros(2)}, "has no var; it has mean"),
        ({"mean": np.zeros(3), "var": np.ones(2)}, "mean has 3 numbers; it must have 2, finite"),
        ({"mean": np.zeros(2), "var": np.array([1.0, -1.0])}, "var has 2 numbers; it must have 2, finite and not neg"),
        ({"mean": np.array([np.nan, 0]), "var": np.ones(2)}, "mean has 2 numbers; it must have 2, finite"),
        ({"mean": np.zeros(2), "var": np.ones(2), "count": np.ones(1)}, "has count; known are mean, var"),
        ({"mean": np.array([None, None]), "var": np.ones(2)}, "a pickle is not read"),
    ],
)
def test_statistics_of_anything_else_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(ImportedFileError, match=said):
        read_statistics(statistics(tmp_path, **arrays), 2)


def test_pickled_statistics_are_not_unpickled(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for name in ("vec_normalize.pkl", "seen.npz", "seen.json"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap(harm)))
        with pytest.raises(ImportedFileError, match=r"must be an .npz or a JSON file"):
            read_statistics(tmp_path / name, 2)
    assert not harm.exists()
