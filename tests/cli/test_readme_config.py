"""The config that the README shows, as it stands there: its transfer is switched on at T1 and T2."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import command_line
import pytest
from command_line import REPOSITORY, Run
from small_runs import metrics

from callbacks.panel import PHASES
from callbacks.progress import summary

run, build = command_line.run, command_line.build
SHORT = ["--T_max=160", "--T1=40", "--T2=80", "--model.log_every=40", "--workers=1", "--copies=4"]


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "teachers").symlink_to(REPOSITORY / "teachers")
    path = tmp_path / "readme.yaml"
    path.write_text(text)
    return path


def switched(ended: Any) -> dict[str, dict[str, list[int]]]:
    """Every T at which a transfer was switched, by what was."""
    return {c.what: c.switched for c in ended.trainer.callbacks if hasattr(c, "switched")}


def test_it_says_what_the_page_says(shown: Path, build: Run) -> None:
    (transfer,) = build("fit", "--config", shown).model.transfers
    schedule = transfer.schedule
    assert (transfer.name, schedule.T1, schedule.T2, schedule.stop) == ("pong-bowling", 100_000, 1_000_000, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [[], ["--trainer.callbacks=[callbacks.Progress]"], ["--trainer.callbacks=null"]],
    ids=["", "listed", "null"],
)
def test_it_aligns_from_T1_and_distils_from_T2(words: list[str], shown: Path, run: Run) -> None:  # noqa: N802
    """Also where a list of callbacks leaves the schedules out; and the display says what was switched."""
    ended = run("fit", "--config", shown, *SHORT, "--data.pool.steps=10", *words)
    assert switched(ended) == {"aligning": {"pong-bowling": [40]}, "distilling": {"pong-bowling": [80]}}
    lines = metrics(Path(ended.trainer.log_dir or ""))
    for column, since in (("alignment_kl/pong-bowling", 80), ("distillation_weight/pong-bowling", 120)):
        assert [float(line["env_steps"]) for line in lines if line[column]] == list(range(since, 161, 40))
    assert summary(ended.model).endswith(f"pong-bowling: {PHASES['distil']}")
    (transfer,) = ended.model.transfers
    transfer.aligning = transfer.distilling = False
    assert PHASES["distil"] not in summary(ended.model)
