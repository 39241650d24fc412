"""From runs to a page: what is read, what is counted, what is said, and that the page needs no other file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_runs import GAME, Steps, make_run
from numpy.testing import assert_allclose

from cdrl_pl.cli import report as command
from cdrl_pl.experiment.folder import RunFolder
from cdrl_pl.report import page, tables, words
from cdrl_pl.report.figures import Drawing, draw
from cdrl_pl.report.folders import read_run
from cdrl_pl.report.panels import action_names, information
from cdrl_pl.report.run_data import ReportError, joined
from cdrl_pl.report.run_table import Settings
from cdrl_pl.report.runs import Comparison, mean_skip, read_folder, read_plain
from cdrl_pl.report.style import short


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two arms of three seeds, all scored: alone 10, 11, 12 and taught 11, 13, 15."""
    content = {
        "name": "A <test>", "folder": "elsewhere", "agent": "b", "baseline": "alone", "seeds": [1, 2, 3], "T_max": 100,
        "config": "gone.yaml", "arms": {"alone": None, "taught": {"title": "with a teacher"}}, "threshold": 65,
        "paper": [{"arm": "alone", "value": 61.48, "spread": 1.48, "protocol": "last 100 episodes", "source": "5.4"}],
    }  # fmt: skip
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for seed in (1, 2, 3):
        make_run(tmp_path / "alone" / f"seed-{seed}", seed, slope=0.5 + 0.1 * seed, score=9 + seed)
        make_run(tmp_path / "taught" / f"seed-{seed}", seed, slope=1.4 + 0.2 * seed, taught=True, score=9 + 2 * seed)
    return tmp_path


# Preset


def test_the_attempts_of_a_run_are_joined_where_the_later_begins() -> None:
    first = {"env_steps": np.array([10.0, 20, 30, 40]), "a": np.array([1.0, 2, 3, 4])}
    second = {"env_steps": np.array([30.0, 40]), "b": np.array([7.0, 8])}
    third = {"env_steps": np.array([50.0]), "a": np.array([9.0])}
    log = joined([first, second, {"env_steps": np.empty(0)}, third])
    assert_allclose(log["env_steps"], [10, 20, 30, 40, 50])
    assert_allclose(log["a"], [1, 2, np.nan, np.nan, 9])
    assert_allclose(log["b"], [np.nan, np.nan, 7, 8, np.nan])


def test_a_curve_has_the_lines_with_a_value(experiment: Path) -> None:
    run = read_run(RunFolder(experiment / "taught" / "seed-1"), "b")
    x, y = run.curve("return/b")
    assert_allclose(x, list(Steps)[1:])
    assert_allclose(y, 1.6 * x)
    assert [len(part) for part in run.curve("nothing")] == [0, 0]


def test_a_line_that_is_being_written_is_left_out(experiment: Path) -> None:
    path = experiment / "alone" / "seed-1" / "version_0" / "metrics.csv"
    path.write_text(path.read_text() + "110,7")
    (path.parent / "action_distributions.jsonl").write_text('{"env_steps": 100}\n{"env_st')
    run = read_run(RunFolder(experiment / "alone" / "seed-1"))
    assert run.env_steps == 100 and run.actions == [{"env_steps": 100}]


@pytest.mark.parametrize(
    ("model", "transfer", "expected"),
    [
        ({}, {"T1": 1, "T2": 2, "stop": 3}, (1, 2, 3)),
        ({"T1": 5, "T2": 6, "stop": "never"}, {"T1": 1, "T2": 2, "stop": 3}, (5, 6, None)),
        ({}, {}, (4_000_000, 6_000_000, 15_000_000)),
        ({"preset": "code"}, {}, (1_000_000, 2_000_000, None)),
        ({}, {"T1": 1, "T2": 2, "stop": 3, "alignment": {"kind": "identity"}}, (None, 2, 3)),
        ({}, {"T1": 1, "T2": 2, "stop": 3, "alignment": {"file": "alignment.safetensors"}}, (None, 2, 3)),
    ],
)
def test_the_marks_are_those_of_the_schedule(
    model: dict[str, Any], transfer: dict[str, Any], expected: tuple[Any, ...], experiment: Path
) -> None:
    config = {"model": {"transfers": [{"teacher": "p", "student": "b", **transfer}], **model}}
    (experiment / "alone/seed-1/version_0/config.yaml").write_text(yaml.safe_dump(config))
    edge = read_run(RunFolder(experiment / "alone" / "seed-1")).transfers["p-b"]
    assert (edge.marks["T1"], edge.marks["T2"], edge.marks["stop"]) == expected


@pytest.mark.parametrize(
    ("env", "frames"),
    [(GAME, 3), ({"id": "Pong-2017"}, 4), ({"id": "Bowling-2017"}, 3), ({"id": "CartPole-v1"}, 1), ({}, 1),
     ({"id": "no_such_module:Env-v0"}, 1)],
)  # fmt: skip
def test_frames_are_decisions_times_the_mean_skip(env: dict[str, Any], frames: float) -> None:
    assert mean_skip(env) == frames


def test_an_arm_of_different_code_is_refused(experiment: Path) -> None:
    prints = experiment / "taught" / "seed-2" / "fingerprint.json"
    prints.write_text(prints.read_text().replace('"code": "a"', '"code": "b"'))
    with pytest.raises(ReportError, match=r"arm taught: .*seed-2 and .*seed-1 differ in code"):
        read_folder(experiment)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"has no metrics.csv"):
        read_run(RunFolder(tmp_path))


# Counting


def cells(table: tables.Table | None) -> dict[tuple[str, str], tuple[str, ...]]:
    assert table is not None
    return {row[:2]: row[2:] for row in table.rows}  # type: ignore[misc]


def test_final_scores(experiment: Path) -> None:
    rows = cells(tables.final_table(read_folder(experiment)))
    assert rows["alone", "3"] == ("11.00 [10.00, 12.00]", "11.00", "12.00 [11.00, 13.00]", "12.00")
    assert rows["with a teacher", "3"] == ("13.00 [11.00, 15.00]", "13.00", "14.00 [12.00, 16.00]", "14.00")


def test_the_difference_to_the_baseline(experiment: Path) -> None:
    gain, chance = cells(tables.difference_table(read_folder(experiment)))["with a teacher", "sampled"]
    assert re.fullmatch(r"\+2\.00 \[[-+]\d\.\d\d, \+\d\.\d\d\]", gain)
    assert chance.startswith("0.83 ")  # 7 pairs of 9 above, 1 tie: 11 with 11


def test_the_speed_of_learning(experiment: Path) -> None:
    alone, taught = tables.speed_table(read_folder(experiment)).rows
    assert alone[:3] == ("alone", "baseline", "baseline")
    # The curves are 0.6, 0.7, 0.8 and 1.6, 1.8, 2 times the decisions; 65 is reached never, at 100, 90 and 50, 40, 40.
    assert alone[3] == "median 100, mean at least 97 (2 of 3)"
    assert taught[3] == "median 40, mean 43 (3 of 3)"
    assert taught[2].startswith("2.57 ")


def test_what_teachers_say_of_the_state(experiment: Path) -> None:
    """Of the last line, T = 100; nothing of an arm without transfers, nor of runs that logged none."""
    rows = cells(tables.information_table(read_folder(experiment)))
    said = ("0.400 (0.400 to 0.400)", "0.020 (0.010 to 0.030)", "0.050 (0.050 to 0.050)")
    assert rows == {("with a teacher", "p teaches b"): said}
    for path in experiment.glob("taught/*/version_0/metrics.csv"):
        path.write_text(path.read_text().replace("state_information", "other"))
    assert tables.information_table(read_folder(experiment)) is None


def test_no_run_at_the_threshold_is_said(experiment: Path) -> None:
    plan = experiment / "experiment.yaml"
    plan.write_text(plan.read_text().replace("threshold: 65", "threshold: 1000"))
    assert [row[3] for row in tables.speed_table(read_folder(experiment)).rows] == ["not reached (0 of 3)"] * 2


def test_published_numbers_stand_beside_ours_with_both_protocols(experiment: Path) -> None:
    table = tables.paper_table(read_folder(experiment))
    assert table is not None and "not comparable" in table.note
    ((arm, ours, our_protocol, theirs, their_protocol),) = table.rows
    assert (arm, ours, theirs, their_protocol) == ("alone", "11.00 ± 1.00", "61.48 ± 1.48", "last 100 episodes (5.4)")
    for part in (
        "100 episodes each",
        "ALE/Bowling-v5",
        "2 to 4 frames",
        "sticky actions 0.25",
        "up to 30 random no-ops",
    ):
        assert part in our_protocol


# Saying


def test_what_cannot_be_concluded_with_few_runs(experiment: Path) -> None:
    (caution,) = words.cautions(read_folder(experiment))
    assert "3 runs, fewer than 5" in caution and "81 %" in caution


def test_one_run_is_no_comparison(experiment: Path) -> None:
    labelled = [("x", experiment / "alone/seed-1"), ("y", experiment / "taught/seed-1")]
    found = words.cautions(read_plain(labelled, Settings()))
    assert any("one run" in caution for caution in found)


def enough(folder: Path) -> Comparison:
    plan = folder / "experiment.yaml"
    plan.write_text(plan.read_text().replace("- 3\n", "- 3\n- 4\n- 5\n"))
    for seed in (4, 5):
        make_run(folder / "alone" / f"seed-{seed}", seed, score=9 + seed)
        make_run(folder / "taught" / f"seed-{seed}", seed, taught=True, score=9 + 2 * seed)
    return read_folder(folder)


def test_nothing_is_wrong_with_five_complete_runs(experiment: Path) -> None:
    assert words.cautions(enough(experiment)) == []


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (
            lambda f: (f / "taught/seed-5/scores.json").unlink(),
            "Without scores of a frozen final policy: with a teacher",
        ),
        (
            lambda f: (f / "taught/seed-5").rename(f / "gone"),
            "not finished. Seeds that have begun: with a teacher: 4 of 5",
        ),
        (lambda f: (f / "taught/seed-5").rename(f / "gone"), "do not have the same seeds"),
        (lambda f: cut(f / "taught/seed-5"), "Not at the budget of 100 decisions: with a teacher seed 5"),
        (lambda f: [other_code(f / f"taught/seed-{n}") for n in range(1, 6)], "run with different code"),
        (lambda f: (f / "taught/seed-5/fingerprint.json").unlink(), "no fingerprint"),
        (lambda f: few(f / "taught/seed-5"), "scored over 9 episodes"),
        (
            lambda f: dies(f / "taught/seed-5"),
            "act alike whatever it saw, which is a network that died of too large a step rather than a result of the "
            "arm (T in decisions): with a teacher seed 5 from 40 on.",
        ),
        (lambda f: other_config(f / "taught/seed-5"), "The runs of with a teacher have different configs"),
    ],
)
def test_what_is_wrong_with_a_comparison_is_said(harm: Callable[[Path], Any], says: str, experiment: Path) -> None:
    enough(experiment)
    harm(experiment)
    assert says in " ".join(words.cautions(read_folder(experiment)))


def dies(run: Path) -> None:
    """From T = 40 on the agent's policy says nothing about the state."""
    (path,) = run.glob("version_0/metrics.csv")
    rows = list(csv.DictReader(path.open()))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0] | {"state_information/b": ""}))
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "state_information/b": 0.1 if int(row["env_steps"]) < 40 else 1e-6})


def cut(run: Path) -> None:
    path = run / "version_0" / "metrics.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")


def other_code(run: Path) -> None:
    path = run / "fingerprint.json"
    path.write_text(path.read_text().replace('"code": "a"', '"code": "b"'))


def few(run: Path) -> None:
    path = run / "scores.json"
    path.write_text(path.read_text().replace('"episodes": 100', '"episodes": 9'))


def other_config(run: Path) -> None:
    path = run / "version_0" / "config.yaml"
    path.write_text(path.read_text().replace("T1: 30", "T1: 31"))


def test_the_finding_says_whether_the_interval_includes_zero(experiment: Path) -> None:
    base, sentence = words.findings(read_folder(experiment))
    assert base == "alone, the baseline: 11.00 points (final policy, sampled)."
    assert sentence.startswith("with a teacher: 13.00 points, +2.00 beside the baseline; the 95 % interval [")
    assert sentence.endswith("] includes zero.") or sentence.endswith("] excludes zero.")
    for seed in (1, 2, 3):
        scores = experiment / "taught" / f"seed-{seed}" / "scores.json"
        scores.write_text(re.sub(r'"mean": \d+', '"mean": 99', scores.read_text()))
    _, sentence = words.findings(read_folder(experiment))
    assert sentence.endswith("] excludes zero.")


# Drawing and writing


def test_what_is_said_of_the_state_is_drawn_over_time(experiment: Path) -> None:
    """A line of each run, as logged; nothing where no run logged what a teacher says."""
    comparison = read_folder(experiment)
    runs = next(arm for arm in comparison.arms if arm.name == "taught").runs
    (axis,) = information(comparison).axes  # type: ignore[union-attr]
    sources = [source for source in ("p-b/teacher", "p-b/aligned", "b") for _ in runs]
    lines = [line for line in axis.get_lines() if len(line.get_xdata()) == len(list(Steps)) - 2]
    for line, source, run in zip(lines, sources, runs * 3, strict=True):
        np.testing.assert_array_equal(line.get_xydata().T, run.curve(f"state_information/{source}"))
    assert axis.get_title() == "with a teacher: p teaches b"
    assert axis.get_legend_handles_labels()[1] == ["teacher", "aligned teacher", "student"]  # from below
    for path in experiment.glob("taught/*/version_0/metrics.csv"):
        path.write_text(path.read_text().replace("state_information/p-b", "other"))
    assert information(read_folder(experiment)) is None


@pytest.mark.parametrize("name", ["kl", "information", "actions"])
def test_without_transfers_there_is_nothing_to_draw(name: str, experiment: Path) -> None:
    assert draw(name, read_plain([("x", experiment / "alone/seed-1")], Settings())) is None


def test_actions_have_names_where_the_run_says_them(experiment: Path) -> None:
    run = experiment / "taught" / "seed-1"
    assert action_names([read_run(RunFolder(run))], "p-b/teacher") == ["0", "1"]
    line = {"env_steps": 30, "p-b/teacher": {"NOOP": 0.9, "FIRE": 0.1}}
    (run / "version_0" / "action_distributions.jsonl").write_text(json.dumps(line) + "\n")
    assert action_names([read_run(RunFolder(run))], "p-b/teacher") == ["NOOP", "FIRE"]
    line["p-b/teacher"] = {"NOOP": 1.0}  # both of the two actions play it
    (run / "version_0" / "action_distributions.jsonl").write_text(json.dumps(line) + "\n")
    assert action_names([read_run(RunFolder(run))], "p-b/teacher") == ["0", "1"]


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes something else for figures."""
    monkeypatch.setattr(page, "draw", lambda name, comparison: Drawing(b"png", b"svg", b"narrow"))


@pytest.mark.usefixtures("quickly")
def test_the_command_writes_into_the_experiments_folder(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(experiment)]) == 0
    assert capsys.readouterr().out.strip() == str(experiment / "report" / "report.html")


@pytest.mark.usefixtures("quickly")
def test_the_command_takes_plain_runs(experiment: Path, tmp_path: Path) -> None:
    runs = [f"{arm}={experiment}/{arm}/seed-{seed}/version_0" for arm in ("alone", "taught") for seed in (1, 2)]
    assert command.main([*runs, "--out", str(tmp_path / "here"), "--threshold=55", "--agent=b"]) == 0
    text = (tmp_path / "here" / "report.md").read_text()
    assert "No final policy has been scored yet" in text and "(2 of 2)" in text


def test_runs_of_different_tasks_are_not_compared(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (experiment / f"{arm}/seed-1/version_0" for arm in ("alone", "taught"))
    for file, old, new, expected in (
        (
            "config.yaml",
            "ALE/Bowling-v5",
            "ALE/Pong-v5",
            r"version_0 plays ALE/Pong-v5 and .* plays ALE/Bowling-v5; .* not",
        ),
        ("metrics.csv", "return/b", "return/c", "version_0 has no agent 'b', by which .* is measured; it has c"),
    ):
        (other / file).write_text((other / file).read_text().replace(old, new))
        with pytest.raises(SystemExit):
            command.main([f"x={one}", f"y={other}"])
        assert re.search(expected, capsys.readouterr().err)


def test_a_preset_is_the_game_that_it_stands_for(experiment: Path) -> None:
    """A run that was scored names ALE/Pong-v5, and one that was not, the Pong-2017 of its config."""
    scored = experiment / "taught" / "seed-1"
    scores, config = scored / "scores.json", experiment / "alone/seed-1/version_0/config.yaml"
    scores.write_text(scores.read_text().replace("Bowling", "Pong"))
    config.write_text(config.read_text().replace("ALE/Bowling-v5", "Pong-2017"))
    labelled = [("x", experiment / "alone/seed-1/version_0"), ("y", scored)]
    assert len(read_plain(labelled, Settings()).arms) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere has no metrics.csv"),
        (["{}/alone/seed-1", "--agnt=b"], "no option --agnt; did you mean --agent?"),
        (["{}/alone/seed-1", "--agent=c"], "--agent is 'c'"),
        (["{}/alone/seed-1", "--baseline=c"], "--baseline is 'c'; it must be one of seed-1"),
        (["{}", "{}/alone/seed-1"], "cannot be in one report"),
    ],
)
def test_a_mistake_is_named(
    words: list[str], says: str, experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(experiment)
    with pytest.raises(SystemExit) as end:
        command.main([word.format(experiment) for word in words])
    assert end.value.code == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (55, "55"), (1000, "1 k"), (150_000, "150 k"), (1_500_000, "1.5 M"), (2e7, "20 M")]
)
def test_large_numbers_are_short_on_axes(value: float, text: str) -> None:
    assert short(value) == text
