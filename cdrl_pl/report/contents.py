"""What stands on the page of a comparison, in its order, as plain text."""

from __future__ import annotations

from typing import NamedTuple

from cdrl_pl.report import tables, words
from cdrl_pl.report.captions import CAPTIONS, alt
from cdrl_pl.report.figures import Drawing
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.tables import Table

SOURCES = (
    "Interquartile mean, probability of improvement, stratified bootstrap over runs: Agarwal, Schwarzer, Castro, "
    "Courville and Bellemare, Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.",
    "Jump-start, time to threshold, area ratio: Taylor and Stone, Transfer Learning for Reinforcement Learning "
    "Domains: A Survey, JMLR 2009.",
    "The method: Lin, Wang, Zhou, Collaborative Deep Reinforcement Learning, KDD 2017.",
)
ORDER: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (  # heading, tables, figures
    ("Final scores", ("final",), ("final_scores",)),
    ("Beside the baseline", ("difference",), ("differences",)),
    ("Speed of learning", ("speed",), ()),
    ("Beside the published numbers", ("paper",), ()),
    ("What the transfers did", ("information",), ("information", "kl")),
    ("Actions before and after alignment", (), ("actions",)),
    ("Every run", ("runs",), ()),
)


class Figure(NamedTuple):
    """A figure of the page.

    Attributes:
        name: of its files.
        caption: how to read it.
        alt: what it shows.
        drawing: the pictures.
    """

    name: str
    caption: str
    alt: str
    drawing: Drawing


class Section(NamedTuple):
    """A heading and what is below it.

    Attributes:
        heading: of the section.
        tables: first.
        figures: then.
    """

    heading: str
    tables: list[Table]
    figures: list[Figure]


class Page(NamedTuple):
    """Everything on the page, in its order, as plain text: titles are escaped where the page is written.

    Attributes:
        title: of the page.
        question: what was asked.
        method: how it was put to the test.
        curves: the figure that comes first.
        findings: in sentences.
        cautions: what cannot be concluded.
        sections: tables and figures.
        facts: how it was run, as terms and what they are.
        sources: of definitions.
        command: that makes the page again; empty where it is not known.
    """

    title: str
    question: str
    method: str
    curves: Figure
    findings: list[str]
    cautions: list[str]
    sections: list[Section]
    facts: list[tuple[str, str]]
    sources: tuple[str, ...]
    command: str


def make_tables(comparison: Comparison) -> dict[str, Table | None]:
    """Every table of the report; None where there is nothing to say."""
    scored = bool(words.scored(comparison))
    return {
        "final": tables.final_table(comparison) if scored else None,
        "difference": tables.difference_table(comparison),
        "speed": tables.speed_table(comparison),
        "paper": tables.paper_table(comparison),
        "information": tables.information_table(comparison),
        "runs": tables.runs_table(comparison),
    }


def make_page(comparison: Comparison, drawn: dict[str, Drawing], command: str) -> Page:
    """The page of a comparison, with the figures that were drawn."""
    made = make_tables(comparison)
    figures = {name: Figure(name, CAPTIONS[name], alt(name, comparison), drawing) for name, drawing in drawn.items()}
    sections = [
        Section(heading, [table for n in names if (table := made[n])], [figures[n] for n in shown if n in figures])
        for heading, names, shown in ORDER
    ]
    return Page(
        title=comparison.name,
        question=words.question(comparison),
        method=words.method(comparison),
        curves=figures["learning_curves"],
        findings=words.findings(comparison),
        cautions=words.cautions(comparison),
        sections=[section for section in sections if section.tables or section.figures],
        facts=words.facts(comparison),
        sources=SOURCES,
        command=command,
    )
