"""The report's page: what comes first, what it shows to whom, and that titles are text wherever they stand."""

from __future__ import annotations

import html.parser
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import yaml
from made_runs import make_run
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from cdrl_pl.cli import report as command
from cdrl_pl.report import page
from cdrl_pl.report.captions import alt
from cdrl_pl.report.figures import FIGURES, Drawing, draw, final_scores, learning_curves
from cdrl_pl.report.panels import actions, kls
from cdrl_pl.report.runs import Comparison, read_folder
from cdrl_pl.report.style import BASELINE, COLOURS, DARK, LIGHT, NARROW, STYLE, WIDE, dark, looks

HOSTILE = "a|b <img src=x onerror=alert(1)> `code`\n# *bold* [x](y) \\ $1$ &amp; _c_ ~~d~~"
PLAIN = " ".join(HOSTILE.split())


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two arms of two seeds: alone 10, 11 and taught 11, 13."""
    content = {
        "name": "A <test>", "folder": "elsewhere", "agent": "b", "baseline": "alone", "seeds": [1, 2], "T_max": 100,
        "config": "gone.yaml", "arms": {"alone": None, "taught": {"title": "with a teacher"}}, "threshold": 65,
        "question": "Does a teacher help?",
    }  # fmt: skip
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for seed in (1, 2):
        make_run(tmp_path / "alone" / f"seed-{seed}", seed, slope=0.5 + 0.1 * seed, score=9 + seed)
        make_run(tmp_path / "taught" / f"seed-{seed}", seed, slope=1.4 + 0.2 * seed, taught=True, score=9 + 2 * seed)
    return tmp_path


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes something else for figures."""
    monkeypatch.setattr(page, "draw", lambda name, comparison: Drawing(b"png", b"svg", b"narrow"))


class Texts(html.parser.HTMLParser):
    """The text of a page by the tag that it is in, every tag that it has, and alternative texts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.texts: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.alts: list[str] = []
        self._open = [""]
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.alts += [value or "" for name, value in attrs if name == "alt"]
        if tag not in ("img", "meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1], data))


@pytest.mark.usefixtures("quickly")
def test_the_page_begins_with_question_and_method_and_then_the_curves(experiment: Path) -> None:
    made = (page.write_report(read_folder(experiment), experiment / "report")).read_text()
    md = (experiment / "report" / "report.md").read_text()
    for text in (made, md):
        order = ["Does a teacher help?", "2 ways of training the agent b in ALE/Bowling-v5", "A teacher here is",
                 "Mean over runs (thick)", "What came out", "with a teacher: 12.00 points", "What cannot be concluded",
                 "Final scores", "How it was run", "Definitions"]  # fmt: skip
        places = [text.index(words, text.index("<body>") if text is made else 0) for words in order]
        assert places == sorted(places)


@pytest.mark.usefixtures("quickly")
def test_the_page_needs_no_other_file(experiment: Path) -> None:
    text = page.write_report(read_folder(experiment), experiment / "report").read_text()
    assert re.findall(r'(?:src|srcset|href)="(?!data:)[^"]*"', text) == [] and "@import" not in text
    assert text.count("data:image/svg+xml;base64,") == 4 * len(FIGURES)
    assert {p.name for p in (experiment / "report").iterdir()} == {
        "report.html", "report.md", *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg"))
    }  # fmt: skip


@pytest.mark.usefixtures("quickly")
def test_the_markdown_has_the_tables_and_names_the_figures(experiment: Path) -> None:
    text = (page.write_report(read_folder(experiment), experiment / "report").parent / "report.md").read_text()
    assert "| with a teacher | 2 | 12.00 [11.00, 13.00] |" in text and "What cannot be concluded" in text
    assert set(re.findall(r"\]\((\w+)\.png\)", text)) == set(FIGURES)


def hostile(comparison: Comparison) -> Comparison:
    arms = [replace(arm, title=HOSTILE) if arm.name == "taught" else arm for arm in comparison.arms]
    return replace(comparison, name=HOSTILE, question=HOSTILE, arms=arms)


@pytest.mark.usefixtures("quickly")
def test_titles_are_text_in_html(experiment: Path) -> None:
    made = page.write_report(hostile(read_folder(experiment)), experiment / "report").read_text()
    read, usual = Texts(made), Texts(page.write_report(read_folder(experiment), experiment / "report").read_text())
    assert read.tags == usual.tags
    assert read.texts[0] == ("title", PLAIN) and ("h1", PLAIN) in read.texts and ("th", PLAIN) in read.texts
    assert any(PLAIN in text for text in read.alts)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(
    "title", [HOSTILE, "# heading", "1. list", "- list", "> quoted", "[a]: b", "| x |", "+ 1", "[x\\](y)", "] ["]
)
def test_titles_are_text_in_markdown(experiment: Path, title: str) -> None:
    """As another program reads it: the structure is that of a harmless title, the text is the title's own."""

    def read(comparison: Comparison) -> tuple[list[str], list[str]]:
        source = (page.write_report(comparison, experiment / "report").parent / "report.md").read_text()
        tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(source)
        flat = [token for outer in tokens for token in (outer, *(outer.children or []))]
        said = ["".join(t.content for t in outer.children or [] if t.type != "image") for outer in tokens]
        return [t.type for t in flat if t.type not in ("text", "text_special")], said

    comparison = read_folder(experiment)
    arms = [replace(arm, title=title) if arm.name == "taught" else arm for arm in comparison.arms]
    kinds, said = read(replace(comparison, name=title, question=title, arms=arms))
    assert kinds == read(comparison)[0]
    plain = " ".join(title.split())
    assert said.count(plain) >= 4 and any(text.startswith(f"{plain}: 12.00 points") for text in said)


@pytest.mark.usefixtures("quickly")
def test_every_heading_stays_with_what_is_below_it_in_print(experiment: Path) -> None:
    text = page.write_report(read_folder(experiment), experiment / "report").read_text()
    sections = text.split("<section")[1:]
    assert len(sections) >= 6
    for section in sections:
        assert re.search(r'^[^>]*><div class="keep"><h2>[^<]+</h2><(div class="scroll"|figure|dl|ul)', section)
    assert re.search(r"@media print\{.*\.keep[^}]*\{break-inside:avoid", text, re.DOTALL)


@pytest.mark.usefixtures("quickly")
def test_the_page_says_the_command_that_makes_it_again(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "a report"
    assert command.main([str(experiment), "--out", str(out)]) == 0
    (again,) = re.findall(r"<code>python -m cdrl_pl report (.*?)</code>", (out / "report.html").read_text())
    assert again == f"{experiment} --out &#x27;{out}&#x27;"
    kept = tmp_path / "kept"
    assert command.main([str(experiment), "--table", str(kept)]) == 0
    assert f"<code>python -m cdrl_pl report {kept}</code>" in (kept / "report" / "report.html").read_text()
    assert f"`python -m cdrl_pl report {kept}`" in (kept / "report" / "report.md").read_text()


# Figures


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05

    return max(light(one), light(other)) / min(light(one), light(other))


@pytest.mark.parametrize("colour", [*COLOURS, BASELINE])
def test_lines_can_be_seen_on_both_backgrounds(colour: str) -> None:
    assert min(contrast(colour, theme.background) for theme in (LIGHT, DARK)) >= 3


def test_arms_differ_by_more_than_hue(experiment: Path) -> None:
    comparison = read_folder(experiment)
    arms = [replace(comparison.arms[1], name=f"arm {i}") for i in range(8)]
    found = looks(replace(comparison, arms=[comparison.base, *arms]))
    for name, one in found.items():
        for other in (look for n, look in found.items() if n != name):
            assert one.marker != other.marker and one.colour != other.colour
    axis = learning_curves(comparison).axes[0]
    assert [line.get_marker() for line in axis.get_lines() if line.get_linewidth() > 2] == ["o", "s"]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_long_titles_of_arms_stay_within_the_figure(width: float, experiment: Path) -> None:
    comparison = read_folder(experiment)
    title = "into the distillation layer, F right with probability 1"
    arms = [replace(comparison.arms[1], name=f"arm {i}", title=title) for i in range(4)]
    with matplotlib.rc_context(STYLE):
        figure = learning_curves(replace(comparison, arms=[comparison.base, *arms]), width)
        FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("figure", [final_scores, kls, actions])
def test_panels_that_are_compared_have_one_range(figure, experiment: Path) -> None:  # type: ignore[no-untyped-def]
    """Each arm drawn anew with a teacher, and the numbers of one a thousand times the other's."""
    for path in experiment.glob("alone/*/version_0/*"):
        taught = experiment / "taught" / path.parts[-3] / "version_0" / path.name
        text = taught.read_text()
        path.write_text(re.sub(r",0\.00(\d)", r",7.\1", text) if path.name == "metrics.csv" else text)
    drawn = figure(read_folder(experiment))
    axes = [axis for axis in drawn.axes if axis.get_visible()]
    assert len(axes) >= 2 and len({axis.get_ylim() for axis in axes}) == 1
    if figure is not actions:
        assert len({axis.get_xlim() for axis in axes}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_for_paper_screen_and_telephone_alike_each_time(name: str, experiment: Path) -> None:
    comparison = hostile(read_folder(experiment))
    drawn = draw(name, comparison)
    assert drawn is not None and drawn.png.startswith(b"\x89PNG") and draw(name, comparison) == drawn
    widths = [float(ET.fromstring(svg).attrib["width"].removesuffix("pt")) for svg in (drawn.svg, drawn.narrow)]
    np.testing.assert_allclose(widths, [72 * WIDE, 72 * NARROW])
    assert LIGHT.text.encode() in drawn.svg and LIGHT.text.encode() not in dark(drawn.svg)
    assert DARK.background.encode() in dark(drawn.svg) and b"<script" not in drawn.svg


def test_alternative_texts_say_the_result(experiment: Path) -> None:
    comparison = read_folder(experiment)
    said = {name: alt(name, comparison) for name in FIGURES}
    assert "alone 65.00; with a teacher 170.00" in said["learning_curves"]
    assert "sampled policy, mean return in points: alone 10.50; with a teacher 12.00." in said["final_scores"]
    assert "with a teacher +1.50 [" in said["differences"] and "probability of improvement 0.88" in said["differences"]
    assert "with a teacher: p teaches b: distillation KL from 0.0067 to 0.002" in said["kl"]
    assert "student 0.050, aligned teacher 0.015, teacher 0.400" in said["information"]
    assert "teacher 0 (0.90), then 0 (0.90), aligned teacher 1 (0.60), then 1 (0.60)" in said["actions"]
