"""Runs in one file: nothing is lost on the way there and back, and a damaged file is refused in a sentence."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command_line import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import packed, rows_of

from cdrl_pl.cli import report as command
from cdrl_pl.experiment.folder import RunFolder
from cdrl_pl.report import page, run_table
from cdrl_pl.report.contents import make_tables
from cdrl_pl.report.figures import FIGURES, Drawing
from cdrl_pl.report.folders import read_run
from cdrl_pl.report.run_data import ArmData, Attempt, Edge, ReportError, RunData
from cdrl_pl.report.run_table import COLUMNS, TABLE, Settings, Table, decode, encode, read_table
from cdrl_pl.report.runs import keep, read_folder
from cdrl_pl.storage.fingerprint import Fingerprint

HERE = Path("here") / TABLE
GAME = {"id": "ALE/Bowling-v5", "frame_skip": [2, 4], "repeat_action_probability": 0.25, "max_episode_steps": 10000}
CONFIG = {  # of a version whose options had other names
    "seed_everything": 1,
    "model": {
        "agents": {"b": {"env": GAME, "gone": 1}, "p": {"env": None, "certificate": "nowhere"}},
        "transfers": [{"teacher": "p", "student": "b", "T1": 20, "T2": 40, "stop": "never", "advice": "random"}],
        "reading": {"order": None},
    },
}


def plain(value: Any) -> Any:
    """A value in which NaN equals NaN, and -0 does not equal 0."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | np.ndarray):
        return [plain(v) for v in value]
    return repr(value) if isinstance(value, float) else value


def content(run: RunData) -> dict[str, Any]:
    """Everything of a run but where it was read, to compare."""
    attempts = [
        (a.number, list(a.log), plain({name: values.tolist() for name, values in a.log.items()}), plain(a.actions))
        for a in run.attempts
    ]
    facts = (run.config, run.environments, run.scores, {name: asdict(edge) for name, edge in run.transfers.items()})
    return {"seed": run.seed, "attempts": attempts, "facts": plain(list(facts)), "made": run.fingerprint}


def contents(arms: list[ArmData]) -> dict[str, list[dict[str, Any]]]:
    return {arm.name: [content(run) for run in arm.runs] for arm in arms}


# Made-up runs

NAMES = st.text("ab/_ ,\"'\n;é|", min_size=1, max_size=6)
NUMBERS = st.floats(width=64)
STEPS = st.integers(0, 10**9)


@st.composite
def attempts(draw: st.DrawFn) -> list[Attempt]:
    found = []
    for number in sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=3))):
        lines = draw(st.integers(0, 4))
        columns = draw(st.lists(NAMES.filter(lambda name: name != "env_steps"), unique=True, max_size=3))
        columns.insert(draw(st.integers(0, len(columns))), "env_steps")  # anywhere, as in real logs
        values = st.lists(NUMBERS, min_size=lines, max_size=lines)
        log = {name: np.array(draw(values), float) for name in columns}
        log["env_steps"] = np.array(draw(st.lists(STEPS, min_size=lines, max_size=lines)), float)
        policies = st.dictionaries(NAMES, st.dictionaries(NAMES, st.floats(0, 1), max_size=2), min_size=1, max_size=2)
        said = [{"env_steps": draw(STEPS), **line} for line in draw(st.lists(policies, max_size=2))]
        found.append(Attempt(number, log, said))
    return found


@st.composite
def runs(draw: st.DrawFn) -> RunData:
    evaluation = st.fixed_dictionaries({"mean": st.floats(-9, 9), "returns": st.lists(NUMBERS, max_size=3)})
    record = st.fixed_dictionaries(
        {"env": st.just(GAME), "env_steps": STEPS, "evaluation": st.fixed_dictionaries({"sampled": evaluation})}
    )
    return RunData(
        place="somewhere",
        seed=draw(st.none() | st.integers(0, 10**6)),
        attempts=draw(attempts()),
        config=draw(st.sampled_from([{}, CONFIG])),
        environments=draw(st.dictionaries(NAMES, st.just(GAME), max_size=2)),
        transfers=draw(st.sampled_from([{}, {"p-b": Edge("p", "b", {"T1": 1, "T2": 2, "stop": None})}])),
        scores=draw(st.dictionaries(st.sampled_from("bp"), record, max_size=2)),
        fingerprint=draw(st.sampled_from([None, Fingerprint("c", "d", {"numpy": "2"})])),
    )


ARMS = st.dictionaries(NAMES, st.lists(runs(), min_size=1, max_size=3), max_size=3).map(
    lambda arms: [ArmData(name, "", found) for name, found in arms.items()]
)
SETTINGS = st.none() | st.builds(Settings, st.none() | NAMES, st.none() | NAMES, st.none() | st.floats(-9, 9))


@pytest.mark.slow
@given(ARMS, SETTINGS)
def test_runs_come_back_from_their_table(arms: list[ArmData], compared_by: Settings | None) -> None:
    packed = encode(arms, compared_by)
    table = decode(packed, HERE)
    assert contents(table.arms) == contents(arms) and list(contents(table.arms)) == [arm.name for arm in arms]
    assert table.settings == compared_by
    assert encode(table.arms, table.settings) == packed


@settings(max_examples=30)
@given(ARMS, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_does_not_matter(arms: list[ArmData], chance: random.Random) -> None:
    """Whoever sorts a table, or adds a column, can still have its report; the order of arms is that of their facts."""
    head, *rows = rows_of(encode(arms, None))
    chance.shuffle(rows)
    places = chance.sample(range(len(head)), len(head))
    mixed = [["note", *(row[i] for i in places)] for row in (head, *rows)]
    assert contents(decode(packed(mixed), HERE).arms) == contents(arms)


def test_the_table_is_tidy() -> None:
    """A known run, row by row: one number or fact in each, under the names that the documentation gives."""
    log = {"env_steps": np.array([10.0, 20]), "return/b": np.array([np.nan, 1.5])}
    score = {"env": GAME, "env_steps": 20, "evaluation": {"greedy": {"mean": 2.0, "returns": [1.0, 3.0]}}}
    run = RunData("", 7, [Attempt(0, log, [{"env_steps": 10, "b": {"NOOP": 1.0}}])], scores={"b": score})
    rows = rows_of(encode([ArmData("alone", "", [run])], None))
    assert tuple(rows[0]) == COLUMNS and rows[1][4:] == ["fact", "format", "", "", "1"]
    assert [row for row in rows if row[4] != "fact"][1:] == [
        ["alone", "1", "7", "", "score", "b/greedy/returns", "0", "20", "1"],
        ["alone", "1", "7", "", "score", "b/greedy/returns", "1", "20", "3"],
        ["alone", "1", "7", "0", "metric", "env_steps", "0", "10", "10"],
        ["alone", "1", "7", "0", "metric", "env_steps", "1", "20", "20"],
        ["alone", "1", "7", "0", "metric", "return/b", "1", "20", "1.5"],
        ["alone", "1", "7", "0", "actions", "b", "0", "10", '{"NOOP": 1.0}'],
    ]


def test_nothing_of_the_moment_is_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [ArmData("a", "", [RunData("here", 1, [Attempt(0, {"env_steps": np.array([1.0])}, [])])])]
    first = encode(arms, None)
    monkeypatch.setattr("time.time", lambda: 1e9)
    arms[0].runs[0] = replace(arms[0].runs[0], place="there")
    assert encode(arms, None) == first


# From run folders to a report


def write_run(path: Path, seed: int, slope: float, taught: bool) -> None:
    """A run of 100 decisions, interrupted after 60 and, before anything was logged, again."""
    names = ["env_steps", "return/b", "seconds", "actions/b/0", "actions/b/1", "never/said"]
    if taught:
        names += ["alignment_kl/p-b", "distillation_kl/p-b", "grad_norm/student/b"]
        names += [f"actions/p-b/{whose}/{i}" for whose in ("teacher", "aligned") for i in (0, 1)]
        names += [f"state_information/{whose}" for whose in ("p-b/teacher", "p-b/aligned", "b")]
    for number, steps in ((0, range(10, 71, 10)), (2, range(50, 101, 10))):
        attempt = path / f"version_{number}"
        attempt.mkdir(parents=True)
        lines = [",".join(names)]
        for n in steps:
            values: list[Any] = [n, slope * n + seed / 3 if n > 10 else "", 2.1, 0.25, 0.75, ""]
            if taught:
                said = [0.1 / n, 0.2 / n, "inf", 0.9, 0.1, 0.4, 0.6, 0.4, seed * n / 1e4, 0.05]
                values += said if n >= 30 else [""] * len(said)
            lines.append(",".join(map(str, values)))
        (attempt / "metrics.csv").write_text("\n".join(lines) + "\n")
        config = {**CONFIG, "seed_everything": seed, "model": {**CONFIG["model"]}}  # type: ignore[dict-item]
        if not taught:
            config["model"].pop("transfers")  # type: ignore[union-attr]
        (attempt / "config.yaml").write_text(yaml.safe_dump(config))
        said = [
            {"env_steps": n, "b": {"NOOP": 0.5, "FIRE": 0.5}, "p-b/teacher": {"X": n / 200, "Y": 0.5}} for n in steps
        ]
        (attempt / "action_distributions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
    (path / "version_1").mkdir()
    (path / "fingerprint.json").write_text(json.dumps(asdict(Fingerprint(str(taught), "a", {"numpy": "2"}))))
    made = {
        p: {"episodes": 3, "mean": 10 * slope + d, "returns": [1.0, seed / 7, -0.0], "noop_max": 30, "policy": p}
        for p, d in (("sampled", 0.0), ("greedy", 1.0))
    }
    record = {"env": GAME, "env_steps": 100, "evaluation": made}
    (path / "scores.json").write_text(json.dumps({"format": 1, "agents": {"b": record}}))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two arms of two seeds; the taught arm's second is not there yet."""
    folder = tmp_path / "runs"
    folder.mkdir()
    plan = {
        "name": "A test", "folder": "elsewhere", "agent": "b", "baseline": "alone", "seeds": [1, 2], "T_max": 100,
        "config": "gone.yaml", "arms": {"alone": None, "taught": {"title": "with a teacher"}}, "threshold": 65,
    }  # fmt: skip
    (folder / "experiment.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    for seed in (1, 2):
        write_run(folder / "alone" / f"seed-{seed}", seed, 0.5 + 0.1 * seed, taught=False)
    write_run(folder / "taught" / "seed-1", 1, 1.6, taught=True)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_report_from_the_table_is_the_report_from_the_run_folders(experiment: Path, tmp_path: Path) -> None:
    """Every file of it, figures included, byte for byte, but for the folder in its command; so is the table's table."""
    kept, again = tmp_path / "kept", tmp_path / "again"
    assert command.main([str(experiment), "--table", str(kept)]) == 0
    assert command.main([str(kept), "--table", str(again)]) == 0  # no run folder is there
    made = files(kept / "report")
    assert set(made) == {"report.md", "report.html", *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))}
    folders = str(again).encode(), str(kept).encode()
    assert {name: content.replace(*folders) for name, content in files(again / "report").items()} == made
    assert {path.name for path in again.iterdir()} == {TABLE, "experiment.yaml", "report"}
    assert (again / TABLE).read_bytes() == (kept / TABLE).read_bytes()


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes something else for figures."""
    monkeypatch.setattr(page, "draw", lambda name, comparison: Drawing(b"png", b"svg", b"narrow"))


@pytest.mark.usefixtures("quickly")
def test_plain_runs_are_compared_as_they_were_when_the_table_was_written(experiment: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    words = [f"{arm}={experiment}/{arm}/seed-1" for arm in ("taught", "alone")]
    options = ["--baseline=alone", "--threshold=30", "--floor=2", "--agent=b"]
    assert command.main([*words, *options, "--table", str(kept)]) == 0
    first = files(kept / "report")
    assert "decisions to a return of 30" in first["report.md"].decode()
    assert command.main([str(kept)]) == 0 and files(kept / "report") == first
    assert command.main([str(kept), "--threshold=50"]) == 0  # what is given now goes before
    text = (kept / "report" / "report.md").read_text()
    assert "decisions to a return of 50" in text and "counted from 2;" in text


@pytest.mark.usefixtures("quickly")
def test_run_folders_go_before_a_table_beside_them(experiment: Path) -> None:
    """The table may be of an earlier day of the experiment."""
    assert command.main([str(experiment), "--table", str(experiment)]) == 0
    write_run(experiment / "taught" / "seed-2", 2, 1.8, taught=True)
    assert [len(arm.runs) for arm in read_folder(experiment).arms] == [2, 2]


def test_runs_that_the_experiment_does_not_plan_are_left_out(experiment: Path, tmp_path: Path) -> None:
    keep(read_folder(experiment), experiment, tmp_path / "kept")
    plan = tmp_path / "kept" / "experiment.yaml"
    plan.write_text(plan.read_text().replace("- 2\n", ""))
    assert [len(arm.runs) for arm in read_folder(tmp_path / "kept").arms] == [1, 1]


def test_no_option_of_a_stored_config_is_looked_up(experiment: Path, tmp_path: Path) -> None:
    """Options may have other names by the time that a table is read; what a report needs of them are facts."""
    keep(read_folder(experiment), experiment, tmp_path)
    head, *rows = rows_of((tmp_path / TABLE).read_bytes())
    changed = [[*row[:-1], json.dumps({"of": "another time"})] if row[5] == "config" else row for row in rows]
    (tmp_path / TABLE).write_bytes(packed([head, *changed]))
    before, after = (make_tables(read_folder(folder)) for folder in (experiment, tmp_path))
    assert after == before
    (edge,) = read_folder(tmp_path).arms[1].runs[0].transfers.values()
    assert edge == Edge("p", "b", {"T1": 20, "T2": 40, "stop": None})


def test_a_start_without_a_log_is_a_start(experiment: Path) -> None:
    run = read_run(RunFolder(experiment / "taught" / "seed-1"))
    (arm,) = decode(encode([ArmData("x", "", [run])], None), HERE).arms
    assert [attempt.number for attempt in arm.runs[0].attempts] == [0, 1, 2]
    assert content(arm.runs[0]) == content(run) and "never/said" in arm.runs[0].metrics


# What is refused


def test_what_does_not_come_back_is_not_written(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the writer or the reader keeps the file of before."""
    monkeypatch.setattr(run_table, "decode", lambda content, path: Table([], None))
    with pytest.raises(ReportError, match="is not written: the runs do not come back"):
        keep(read_folder(experiment), experiment, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{0}", "{0}", "--table={1}"], "--table is for one report"),
        (["x={0}/alone/seed-1", "--table={0}"], "is the folder of an experiment, which these runs are not of"),
        (["{0}", "{0}/alone/seed-1"], "an experiment's folder, or one with a table, and other runs cannot be in one"),
    ],
)
def test_a_mistake_is_named(
    words: list[str], says: str, experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command.main([word.format(experiment, tmp_path / "kept") for word in words])
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_runs_without_a_seed_are_numbered(experiment: Path) -> None:
    (experiment / "alone/seed-1/version_2/config.yaml").unlink()
    run = read_run(RunFolder(experiment / "alone" / "seed-1"))
    assert run.seed is None and decode(encode([ArmData("x", "", [run])], None), HERE).arms[0].runs[0].seed is None


# The repository's own


@pytest.mark.slow
@pytest.mark.parametrize("table", sorted(REPOSITORY.glob("docs/results/*/" + TABLE)), ids=lambda path: path.parent.name)
def test_a_table_of_the_repository_can_be_read(table: Path) -> None:
    found = read_table(table)
    assert found.arms and all(math.isfinite(run.env_steps) for arm in found.arms for run in arm.runs)
    assert encode(found.arms, found.settings) == table.read_bytes()


@pytest.mark.parametrize(
    "report", sorted(REPOSITORY.glob("docs/results/*/report/report.md")), ids=lambda p: p.parts[-3]
)
def test_a_report_of_the_repository_is_that_of_its_table(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the report's words have changed since: python -m cdrl_pl report docs/results/*/"""
    nothing = Drawing(b"", b"", b"")
    monkeypatch.setattr(page, "draw", lambda name, _: nothing if (report.parent / f"{name}.png").is_file() else None)
    folder = report.parents[1].relative_to(REPOSITORY)
    page.write_report(read_folder(report.parents[1]), tmp_path, f"python -m cdrl_pl report {folder}")
    assert (tmp_path / "report.md").read_text() == report.read_text()
