"""The report of a comparison: an HTML page that needs no other file, the same as Markdown, and figures as files."""

from __future__ import annotations

from pathlib import Path

from cdrl_pl.report.contents import make_page
from cdrl_pl.report.figures import FIGURES, draw
from cdrl_pl.report.markdown import markdown
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.web import html
from cdrl_pl.storage.atomic import write_whole


def write_report(comparison: Comparison, folder: Path, command: str = "") -> Path:
    """Writes ``report.html``, ``report.md`` and every figure as PNG and SVG to ``folder``; returns the page's path.

    Args:
        comparison: what is reported.
        folder: of the report; it is made.
        command: that makes the report again, for its foot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {name: drawing for name in FIGURES if (drawing := draw(name, comparison))}
    for name in FIGURES:
        for kind in ("png", "svg"):
            if name in drawn:
                write_whole(folder / f"{name}.{kind}", getattr(drawn[name], kind))
            else:
                (folder / f"{name}.{kind}").unlink(missing_ok=True)  # of an earlier report
    page = make_page(comparison, drawn, command)
    write_whole(folder / "report.html", html(page).encode())
    write_whole(folder / "report.md", markdown(page).encode())
    return folder / "report.html"
