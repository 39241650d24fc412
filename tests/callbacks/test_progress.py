"""The live display: what is in it, and what a person sees of a run in a real terminal and elsewhere."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from command_line import MODULE, callback, edge, environment, pole, tiny, write
from graphs import FixedData, alone, fit, graph, random_batch, transfer
from rich.console import Console
from terminal import Terminal

from callbacks import CertificatedTeacher, EnvStepsCheckpoint, Progress
from callbacks.course import BARS, Curve, clock, marked_bar
from callbacks.panel import Cockpit, Standing
from callbacks.progress import closing, summary
from cdrl_pl.training.collaboration import Collaboration
from cdrl_pl.types import Episode


def text_of(panel: Any, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(panel)
    return console.file.getvalue()  # type: ignore[attr-defined]


def in_the_middle() -> Collaboration:
    """A run at T = 3,000 of 12,000 with numbers that are easy to find."""
    module = graph(transfer(T1=1_000, T2=2_000), T_max=12_000)
    module.env_steps = {"alpha": 3_000, "beta": 3_000}
    module.transfers[0].distilling = True
    module.run_log.episodes["beta"].extend([Episode(10.0, 10), Episode(21.5, 20)])
    module.run_log.latest = {
        "env_steps": 3_000,
        "decisions_per_second": 5.0,  # of both agents
        "return/beta": 15.75,
        "length/beta": 15.0,
        "episodes/beta": 4_321,
        "policy_loss/beta": -0.123,
        "value_loss/beta": 4.56,
        "entropy/beta": 0.678,
        "policy_lag/beta": 1.5,
        "alignment_kl/alpha-beta": 0.0912,
        "distillation_kl/alpha-beta": 0.345,
        "workers/restarts": 2.0,
    }
    return module


@pytest.mark.parametrize(
    "part",
    ["T 3,000/12,000", "2 decisions/s", "ETA 1:00:00", "beta return 15.75", "alpha return -", "alpha-beta: distil"],
)
def test_the_line_for_logs_contains_the_numbers(part: str) -> None:
    """9,000 decisions are left, at 2.5 per second for each agent."""
    assert part in summary(in_the_middle())


@pytest.mark.parametrize(
    "part",
    [
        "3,000/12,000",
        "15.8",
        "4,321",
        "-0.123",
        "4.56",
        "0.678",
        "1.5",
        "0.0912",
        "0.345",
        "alpha ─▶ beta",
        "distilling",
        "2 replaced",
    ],
)
def test_the_panel_contains_the_numbers(part: str) -> None:
    assert part in text_of(Cockpit(in_the_middle()))


@pytest.mark.parametrize("transfers", [[], [transfer()]])
def test_a_run_without_numbers_can_be_shown(transfers: list[Any]) -> None:
    module = graph(*transfers)
    assert "T 0/120" in text_of(Cockpit(module)) and "ETA -" in summary(module)


def test_nothing_is_left_where_the_last_batch_has_passed_the_end() -> None:
    module = in_the_middle()
    module.env_steps = {"alpha": 12_160, "beta": 12_160}
    assert "ETA 0:00:00" in text_of(Cockpit(module)) and "ETA 0:00:00" in summary(module)


@pytest.mark.parametrize("window", [7, 100])
def test_the_panel_says_how_many_episodes_it_averages(window: int) -> None:
    assert f"mean of the last {window} episodes" in text_of(Cockpit(graph(window=window)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e30, 0.0, -0.0, 1e-12])
def test_any_number_can_be_shown(value: float) -> None:
    module = in_the_middle()
    module.run_log.latest["value_loss/beta"] = value
    assert "beta" in text_of(Cockpit(module))


@pytest.mark.parametrize("width", [10, 40, 80])
def test_the_panel_fits_a_narrow_terminal(width: int) -> None:
    assert max(map(len, text_of(Cockpit(in_the_middle()), width).splitlines())) <= width


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00:00"), (59.9, "0:00:59"), (3_661.0, "1:01:01"), (360_000.0, "100:00:00")]
)
def test_seconds_are_shown_as_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_shows_where_it_stands(tmp_path: Path, terminal: bool) -> None:
    """The first line and the last; what comes within the same seconds (here all in between) is left out."""
    module, progress, output = graph(transfer(), T_max=30), Progress(refresh=0.001), io.StringIO()
    progress._console = Console(file=output, force_terminal=terminal, width=120)
    fit(module, FixedData(random_batch(module)), tmp_path, progress)
    assert [T in output.getvalue() for T in ("T 10/30", "T 20/30", "T 30/30")] == [True, False, True]
    assert terminal or output.getvalue().count("T 30/30") == 1
    assert progress._live is None


def test_the_display_ends_with_an_exception(tmp_path: Path) -> None:
    class Fail(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("boom")

    module, progress = alone(), Progress(refresh=1e9)
    progress._console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(RuntimeError, match="boom"):
        fit(module, FixedData(random_batch(module)), tmp_path, progress, Fail())
    assert progress._live is None


@pytest.mark.parametrize("refresh", [0.0, -1.0, float("nan")])
def test_a_refresh_rate_that_is_not_positive_is_refused(refresh: float) -> None:
    with pytest.raises(ValueError, match=f"Progress.refresh is {refresh}; it must be above 0"):
        Progress(refresh)


# Parts of the panel


def test_a_curve_goes_from_its_least_to_its_largest() -> None:
    curve = Curve((i, value) for i, value in enumerate([0.0, 1.0, 2.0, 7.0]))
    assert curve.sparkline(4) == BARS[0] + BARS[1] + BARS[2] + BARS[7] and curve.best == 7.0


def test_a_flat_curve_is_flat_and_an_empty_one_empty() -> None:
    assert Curve([(0, 5.0), (1, 5.0)]).sparkline(10) == BARS[0] * 2 and Curve().sparkline(10) == ""


def test_a_long_curve_keeps_a_bounded_number_of_points_evenly_and_its_best() -> None:
    curve = Curve()
    for i in range(10_000):
        curve.add(i, float(-abs(i - 5_001)))
    gaps = {round(b - a) for (a, _), (b, _) in zip(curve.points, curve.points[1:], strict=False)}
    assert len(curve.points) <= 240 and len(gaps) == 1 and curve.best == 0.0
    assert curve.points[0][0] == 0 and curve.points[-1][0] > 9_900


def lines_of(done: float, marks: dict[float, str], width: int) -> list[str]:
    return ["".join(text for text, _ in line) for line in marked_bar(done, marks, width)]


def test_marks_stand_under_their_place() -> None:
    _, marks = lines_of(0.5, {0.25: "T1", 0.5: "T2"}, 41)
    assert (marks.index("╵T1"), marks.index("╵T2")) == (10, 20)


@pytest.mark.parametrize("share", [0.0, 0.97, 1.0])
def test_a_mark_at_an_end_fits(share: float) -> None:
    _, marks = lines_of(0.5, {share: "stop"}, 40)
    assert "stop" in marks and len(marks) <= 40


def test_marks_that_would_cover_each_other_do_not() -> None:
    _, marks = lines_of(0.5, {0.50: "T1", 0.51: "T2"}, 40)
    assert "╵T1" in marks and "T2" not in marks


def test_a_transfer_of_weight_0_is_not_said_to_distil() -> None:
    module = in_the_middle()
    module.transfers[0].weighting.scheduled = 0.0
    assert "weight 0" in text_of(Cockpit(module)) and "distilling" not in text_of(Cockpit(module))
    assert "alpha-beta: weight 0" in summary(module)


def test_the_curves_outlast_a_resume() -> None:
    one, other = Progress(), Progress()
    one._standing.curves = {"beta": Curve([(10, 1.0), (20, 3.0)])}
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other._standing.curves["beta"].points == [(10, 1.0), (20, 3.0)]
    assert other._standing.curves["beta"].best == 3.0


def test_drawing_costs_little() -> None:
    """Twice a second: less than 2 % of a core, whatever else the machine does."""
    module, standing = in_the_middle(), Standing(curves={"beta": Curve((i, i) for i in range(240))})
    began = time.process_time()
    for _ in range(10):
        text_of(Cockpit(module, standing), 120)
    assert (time.process_time() - began) / 10 < 0.01


# In a real terminal


LOUD = """
import warnings

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_warn


class Loud(pl.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if module.clock == 50:
            print("printed by a callback")
            warnings.warn("warned by python", stacklevel=1)
            rank_zero_warn("warned by lightning")
"""
LOUD_WRAPPER = """
import os
import subprocess

import gymnasium as gym


class Loud(gym.Wrapper):
    \"\"\"In a worker: by Python, by a library below it, and by a process of its own.\"\"\"

    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 12:
            print("printed by an environment", flush=True)
            os.write(2, b"written below an environment\\n")
            subprocess.run(["echo", "said by its process"], check=True)
        return self.env.step(action)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is left on the terminal of a run that crosses T1 and T2, stores a teacher and is warned of things."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "loud.py").write_text(LOUD)
    (folder / "loud_wrapper.py").write_text(LOUD_WRAPPER)
    beta = pole()
    beta["env"]["wrappers"] = ["loud_wrapper.Loud"]
    config = tiny(
        callback("callbacks.CertificatedTeacher", agent="alpha", threshold=0, window=1, episodes=2),
        {"class_path": "loud.Loud"},
        transfers=[edge()],
        alpha=pole(),
        beta=beta,
    )
    write(folder / "run.yaml", config)
    terminal = Terminal(*MODULE, "fit", "--config", "run.yaml", folder=folder)
    text = terminal.read_to_the_end()
    assert terminal.process.returncode == 0, text
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        "run folder: runs/version_0",
        "first update",
        "aligning on of alpha-beta at T = 40",
        "distilling on of alpha-beta at T = 80",
        "its frozen policy plays 2 episodes",
        "stored runs/version_0/teacher/alpha: sampled",
        "printed by a callback",
        "warned by python",
        "warned by lightning",
        "printed by an environment",
        "written below an environment",
        "said by its process",
        "ended at T = 120 in runs/version_0",
        "teacher runs/version_0/teacher/alpha: frozen policy",
        "watch   python -m cdrl_pl predict --config runs/version_0/config.yaml --ckpt_path runs/version_0",
    ],
)
def test_no_message_is_drawn_over(seen: str, message: str) -> None:
    assert message in re.sub(r"\n(?=\S)", "", seen) or message in seen, seen


@pytest.mark.slow
def test_one_whole_panel_is_left(seen: str) -> None:
    """And no ghost of an earlier one."""
    assert seen.count("╭─") == seen.count("╰─") == 1 and "T 120/120" in seen


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 160])
def test_the_panel_is_whole_in_every_terminal(tmp_path: Path, columns: int) -> None:
    write(tmp_path / "run.yaml", tiny(transfers=[edge()], alpha=pole(), beta=pole()))
    text = Terminal(*MODULE, "fit", "--config", "run.yaml", folder=tmp_path, columns=columns).read_to_the_end()
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("╭"))
    last = next(i for i, line in enumerate(lines) if line.startswith("╰"))
    assert all(len(line) == columns and line[-1] in "╮│╯" for line in lines[first : last + 1]), text


# What a run ends with


@pytest.mark.slow
def test_the_commands_that_a_run_ends_with_work(tmp_path: Path) -> None:
    write(tmp_path / "run.yaml", tiny(pole=pole()))
    run = subprocess.run(
        [*MODULE, "fit", "--config", "run.yaml"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    commands = dict(re.findall(r"^  (test|resume) +(python .*)$", run.stderr, re.MULTILINE))
    assert commands.keys() == {"test", "resume"}, run.stderr
    for what, expected in (("resume", "goes on at T = 120 from"), ("test", "scores in runs/version_2/scores.json")):
        words = [sys.executable if word == "python" else word for word in commands[what].split()]
        again = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert again.returncode == 0 and expected in again.stderr + again.stdout, again.stderr


def test_a_run_that_saved_nothing_gives_no_command(tmp_path: Path) -> None:
    module = alone(T_max=20)
    trainer = fit(module, FixedData(random_batch(module)), tmp_path, Progress())
    assert closing(trainer, module) == [f"ended at T = 20 in {tmp_path}"]


def test_a_certificates_frozen_scores_are_the_last_word(tmp_path: Path) -> None:
    module = alone(T_max=20)
    watch = CertificatedTeacher("beta", -1e9, window=1, episodes=2)
    trainer = fit(module, FixedData(random_batch(module)), tmp_path, watch, EnvStepsCheckpoint(10))
    assert watch.stored is not None
    folder, sampled, greedy = watch.stored
    expected = f"teacher {folder}: frozen policy {sampled:.2f} sampled, {greedy:.2f} greedy"
    assert expected in closing(trainer, module)
