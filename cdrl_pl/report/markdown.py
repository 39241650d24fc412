"""A report's page as Markdown, with the figures as files beside it."""

from __future__ import annotations

import re

from cdrl_pl.report.contents import Figure, Page
from cdrl_pl.report.tables import Table

# What is escaped where it may mean something: not _ within a word, nor # and brackets where they are signs like others.
SPECIAL = r"[\\`*~|$]|(?<!\w)_|_(?!\w)|(?<= )#|#$|\](?=[(\[:])"
ALTERNATIVE = rf"{SPECIAL}|[\[\]]"


def markdown(page: Page) -> str:
    """The page."""
    parts = [f"# {text(page.title)}", f"**{text(page.question)}**", block(page.method), *_figure(page.curves)]
    parts += ["## What came out", _list(page.findings)]
    if page.cautions:
        parts += ["**What cannot be concluded**", _list(page.cautions)]
    for heading, tables, figures in page.sections:
        parts += [f"## {text(heading)}", *map(_table, tables), *(part for f in figures for part in _figure(f))]
    facts = [f"{text(term)}: {text(what)}" for term, what in page.facts]
    if page.command:
        facts.append(f"This page again: {_code(page.command)}")
    parts += ["## How it was run", "\n".join(f"- {fact}" for fact in facts), "## Definitions", _list(page.sources)]
    return "\n\n".join(parts) + "\n"


def text(said: str, special: str = SPECIAL) -> str:
    """Text that Markdown, and HTML in it, leave as it is; on one line.

    Args:
        said: the text.
        special: what is escaped, as a pattern.
    """
    line = re.sub(special, r"\\\g<0>", " ".join(said.split()))
    return re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")


def block(said: str) -> str:
    """As ``text``, where it begins a line: what would make a heading, a list or a quotation of it is escaped."""
    return re.sub(r"^(\d*)([#>+=.)\[-])", r"\1\\\2", text(said))


def _list(sentences: list[str] | tuple[str, ...]) -> str:
    return "\n".join(f"- {block(sentence)}" for sentence in sentences)


def _code(command: str) -> str:
    fence = "`" * (1 + max(map(len, re.findall("`+", command)), default=0))
    space = " " * ("`" in command)
    return f"{fence}{space}{' '.join(command.split())}{space}{fence}"


def _figure(figure: Figure) -> list[str]:
    return [f"![{text(figure.alt, ALTERNATIVE)}]({figure.name}.png)", block(figure.caption)]


def _table(table: Table) -> str:
    """A table and its note."""

    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(cells)} |"

    rows = [line(tuple(map(text, row))) for row in (table.head, *table.rows)]
    lines = [rows[0], line(("---",) * len(table.head)), *rows[1:]]
    return "\n".join(lines) + (f"\n\n{block(table.note)}" if table.note else "")
