"""How far evaluations and videos are, and what they found: in words, as a table, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import MODULE, pole, tiny, write
from rich.console import Console
from terminal import Terminal

from cdrl_pl.envs import EnvConfig
from cdrl_pl.evaluation import display
from cdrl_pl.evaluation.display import EvaluationDisplay, in_words, table
from cdrl_pl.evaluation.evaluate import Played
from cdrl_pl.evaluation.score import Score
from cdrl_pl.system.stop import Stopped
from cdrl_pl.training import evaluator
from cdrl_pl.training.evaluator import EvaluationJob, Evaluator

RETURNS = (10.0, 14.0, 27.0)
SCORE = Score(3, 17.0, float(np.std(RETURNS)), 1234.0, RETURNS, "sampled", 0, 30)


def text_of(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_before_the_first_episode_ends_the_words_tell_that_something_is_played() -> None:
    said = in_words("pong, greedy", 100, Played(0, 0.0, 4_321), 10.0)
    assert said == "pong, greedy: 0/100 episodes, 4,321 decisions so far"


def test_the_words_have_the_mean_and_what_is_left_at_the_speed_so_far() -> None:
    """25 episodes in 30 seconds: 75 more take 90."""
    said = in_words("pong, greedy", 100, Played(25, 100.0, 9), 30.0)
    assert said == "pong, greedy: 25/100 episodes, mean 4.00 so far, about 1:30 left"


def test_the_table_has_the_mean_with_its_standard_error() -> None:
    error = 1.96 * np.std(RETURNS, ddof=1) / np.sqrt(3)
    header, row = text_of(table({"pong": {"sampled": SCORE}}, {"pong": {"sampled": 61.25}})).strip().splitlines()
    assert row.split() == ["pong", "sampled", "3", "17.00", "±", f"{error:.2f}", "7.26", "10", "27", "1,234", "61.2"]
    assert header.split()[-1] == "seconds"


def test_one_episode_has_no_error() -> None:
    one = Score(1, 5.0, 0.0, 9.0, (5.0,), "greedy", 0, 0)
    assert "±" not in text_of(table({"pong": {"greedy": one}}, {"pong": {"greedy": 1.0}})).splitlines()[1]


def shown(every: float, monkeypatch: pytest.MonkeyPatch, **terminal: Any) -> tuple[EvaluationDisplay, io.StringIO]:
    monkeypatch.setattr(display, "LINE_SECONDS", every)
    output, opened = io.StringIO(), EvaluationDisplay("pong, greedy", 4)
    opened._console = Console(file=output, width=100, **terminal)
    return opened, output


def test_elsewhere_than_on_a_terminal_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, output = shown(0.0, monkeypatch)
    with opened:
        opened.update(Played(0, 0.0, 16))
        opened.update(Played(2, 6.0, 99))
    first, second = output.getvalue().splitlines()
    assert first == "pong, greedy: 0/4 episodes, 16 decisions so far"
    assert second.startswith("pong, greedy: 2/4 episodes, mean 3.00 so far, about 0:0")


def test_lines_come_now_and_then_and_a_short_evaluation_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, output = shown(1e9, monkeypatch)
    with opened:
        opened.update(Played(2, 6.0, 99))
    assert output.getvalue() == "" and opened.seconds > 0


def test_in_another_display_it_is_announced_and_the_end_is_too() -> None:
    said: list[str] = []
    with EvaluationDisplay("pong, greedy", 4, said.append) as opened:
        opened.update(Played(2, 6.0, 99))
    assert said[0].startswith("pong, greedy: 2/4 episodes, mean 3.00") and said[1:] == [""]


def test_a_video_shows_how_far_it_is_and_ends_where_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_episode(*_: Any, tick: Any) -> str:
        tick(Played(0, 0.0, 7))
        return "played"

    monkeypatch.setattr(evaluator, "save_episode", save_episode)
    agents: Any = {"pong": SimpleNamespace(network=None, env=EnvConfig("Pong-2017"))}
    job = EvaluationJob("pong", False, 1, seed=7, noop_max=12)
    assert Evaluator(agents, lambda: False).record(job, tmp_path) == "played"
    with pytest.raises(Stopped):
        Evaluator(agents, lambda: True).record(job, tmp_path)


@pytest.mark.slow
def test_a_test_on_a_terminal_ends_with_its_scores_and_where_they_are(tmp_path: Path) -> None:
    """And no table of Lightning's."""
    write(tmp_path / "run.yaml", tiny(pole=pole()))
    terminal = Terminal(*MODULE, "test", "--config", "run.yaml", "--episodes", "3", folder=tmp_path, columns=200)
    text = terminal.read_to_the_end()
    assert terminal.process.returncode == 0, text
    record = json.loads((tmp_path / "runs" / "version_0" / "scores.json").read_text())["agents"]["pole"]
    for policy, score in record["evaluation"].items():
        assert re.search(rf"^pole +{policy} +3 +{score['mean']:.2f} ± ", text, re.MULTILINE), text
    assert "scores in runs/version_0/scores.json" in text and "DataLoader" not in text
    assert "no --ckpt_path was given: pole will play with untrained" in text
