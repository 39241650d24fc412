"""A damaged table of runs is refused in a sentence that names the file and says what to do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import packed, rows_of

from cdrl_pl.cli import report as command
from cdrl_pl.report.run_data import ArmData, Attempt, Edge, ReportError, RunData
from cdrl_pl.report.run_table import COLUMNS, TABLE, decode, encode

HERE = Path("here") / TABLE


def write(rows: Callable[[list[list[str]]], Any]) -> Callable[[bytes], bytes]:
    def harm(content: bytes) -> bytes:
        found = rows_of(content)
        return packed(rows(found) or found)

    return harm


def fact(name: str, value: str) -> Callable[[bytes], bytes]:
    return write(lambda rows: [[*row[:-1], value] if row[5] == name else row for row in rows])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda c: c[: len(c) // 2], "it is damaged, cut short, or no gzip file"),
        (lambda c: b"", "it has no column arm, run, seed"),
        (lambda c: b"arm,run\n", "it is damaged, cut short, or no gzip file"),
        (lambda c: c[:40] + bytes([c[40] ^ 255]) + c[41:], "it is damaged, cut short, or no gzip file"),
        (lambda c: gzip.compress("é".encode("latin-1")), "it is not UTF-8"),
        (lambda c: gzip.compress(gzip.decompress(c)[:-9]), "row 12 is cut short"),
        (write(lambda rows: [row[:-1] for row in rows]), "it has no column value"),
        (write(lambda rows: rows[:1]), "nothing in it says 'format'"),
        (fact("format", "2"), "has format 2, and this program reads format 1: use the version"),
        (fact("config", "{"), "Expecting property name"),
        (fact("transfers", '{"p-b": {"by": 1}}'), "unexpected keyword argument 'by'"),
        (write(lambda rows: [row for row in rows if row[5] != "fingerprint"]), "nothing in it says 'fingerprint'"),
        (write(lambda rows: rows[:-1]), "it has 1 of 2 values of return/b"),
        (write(lambda rows: rows[-1].__setitem__(6, "-1")), "'-1' is no index"),
        (write(lambda rows: rows[-1].__setitem__(6, "9999")), "index 9999 is out of bounds"),
        (write(lambda rows: rows[-1].__setitem__(8, "many")), "could not convert string to float: 'many'"),
        (write(lambda rows: rows[-1].__setitem__(4, "guess")), "there is no kind 'guess'"),
        (write(lambda rows: rows[-1].__setitem__(5, "other")), "nothing in it says 'other'"),
    ],
)
def test_a_damaged_table_is_refused_in_a_sentence(
    harm: Callable[[bytes], bytes], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / TABLE
    log = {"env_steps": np.array([10.0, 20]), "return/b": np.array([1.5, 2.5])}
    transfers = {"p-b": Edge("p", "b", {"T1": 1, "T2": 2, "stop": None})}
    run = RunData("", 1, [Attempt(0, log, [])], transfers=transfers)
    table.write_bytes(harm(encode([ArmData("x", "", [run])], None)))
    with pytest.raises(SystemExit) as end:
        command.main([str(tmp_path)])
    said = capsys.readouterr().err.splitlines()[0]
    assert end.value.code == 2 and said.startswith(f"error: {table} ") and says in said
    assert "report --table" in said or "use the version of the program that wrote it" in said


@given(st.binary(max_size=60))
def test_no_content_at_all_gives_anything_but_runs_or_a_refusal(content: bytes) -> None:
    for found in (content, gzip.compress(content), gzip.compress(",".join(COLUMNS).encode() + b"\n" + content)):
        with pytest.raises(ReportError, match=TABLE):
            decode(found, HERE)


def test_a_run_without_a_clock_is_refused() -> None:
    arms = [ArmData("x", "", [RunData("", 1, [Attempt(0, {"return/b": np.ones(1)}, [])])])]
    with pytest.raises(ReportError, match="arm x, run 1 has no metric env_steps"):
        decode(encode(arms, None), HERE)
