"""The reference is what the code says, and metrics are those that runs log."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from command_line import REPOSITORY
from graphs import FixedData, agent, fit, graph, random_batch, transfer
from wide_cartpole import WIDE

from cdrl_pl.metric_names import METRICS, RETURN
from cdrl_pl.transfer.weighting import AlarmConfig


def test_the_reference_is_written_from_the_code() -> None:
    made = runpy.run_path(str(REPOSITORY / "docs" / "make_reference.py"))
    assert (REPOSITORY / "docs" / "reference.md").read_text() == made["reference"](), "run: make docs"
    assert (REPOSITORY / "cdrl_pl" / "cli" / "known_options.txt").read_text() == made["known_options"](), (
        "run: make docs"
    )


def test_links_within_the_reference_lead_to_its_sections_and_required_options_say_so() -> None:
    text = (REPOSITORY / "docs" / "reference.md").read_text()
    heads = {re.sub(r"[^\w-]", "", head.lower()) for head in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links <= heads and {"modelagentsname", "datapool"} <= links
    required = set(re.findall(r"^\| `(\w+)` \| required \|", text, re.MULTILINE))
    assert required == {"agents", "id", "teacher", "student", "agent", "threshold"}


def test_every_column_of_a_run_is_a_metric(tmp_path: Path) -> None:
    agents = {"alpha": agent(WIDE), "beta": agent()}
    module = graph(transfer(alarm=AlarmConfig(every=1)), agents=agents, T_max=60)
    fit(module, FixedData(random_batch(module)), tmp_path)
    unknown = [column for column in module.run_log.latest if not any(metric.matches(column) for metric in METRICS)]
    assert unknown == [] and "gradient_cosine/alpha-beta" in module.run_log.latest


def test_a_metric_knows_its_columns() -> None:
    assert RETURN("pong") == "return/pong" and RETURN.matches("return/pong") and not RETURN.matches("returns/pong")
    with pytest.raises(TypeError, match="needs 1 parts"):
        RETURN()
