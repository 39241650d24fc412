"""JSON that is JSON, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrl_pl.storage.atomic import DamagedFileError, read_as, write_json


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_no_json(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"scores.json cannot be written"):
        write_json(tmp_path / "scores.json", {"mean": value})
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_with_the_reason(tmp_path: Path) -> None:
    def parse(path: Path) -> int:
        return int(path.read_text())

    (tmp_path / "number").write_text("seven")
    with pytest.raises(DamagedFileError, match=r"number is no count \(ValueError: .*seven.*\); restore it"):
        read_as(tmp_path / "number", "count", parse)
    with pytest.raises(DamagedFileError, match=r"nothing is no count \(No such file"):
        read_as(tmp_path / "nothing", "count", parse)
