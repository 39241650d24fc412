"""The pages of a report: one HTML page that needs no other file, the same as Markdown, and its figures as PNG files."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from cdrl_pl.report import tables
from cdrl_pl.report.figures import DARK, FIGURES, LIGHT, draw
from cdrl_pl.report.runs import Comparison
from cdrl_pl.report.tables import Table
from cdrl_pl.storage.atomic import write_whole

CAPTIONS = {
    "learning_curves": "Mean over runs (thick), every run (thin), and a pointwise 95 % bootstrap band over runs. Each "
    "run's curve is the mean return of its last 100 finished training episodes, so it trails the policy.",
    "final_scores": "A tick per run, the mean over runs as a marker, its 95 % bootstrap interval as a bar.",
    "differences": "Mean with its 95 % bootstrap interval over runs; dashed: no difference.",
    "kl": "Measured alike in every arm, whatever is trained: distillation KL(aligned teacher ‖ student layer), "
    "alignment KL(student policy ‖ aligned teacher), one line per run. T1: alignment training starts; T2: "
    "distillation starts; stop: both end.",
    "information": "How much an action depends on the state: mutual information over the states of a rollout, one line "
    "per run. Where the aligned teacher is near 0, it says the same in every state.",
    "actions": "Mean policies on the student's states, averaged over runs (the paper's Figure 5), over the first log "
    "line with the teacher active, in which its alignment had only begun to train, and over the last.",
}
SOURCES = (
    "Interquartile mean, probability of improvement, stratified bootstrap over runs: Agarwal, Schwarzer, Castro, "
    "Courville and Bellemare, Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.",
    "Jump-start, time to threshold, area ratio: Taylor and Stone, Transfer Learning for Reinforcement Learning "
    "Domains: A Survey, JMLR 2009.",
    "The method: Lin, Wang, Zhou, Collaborative Deep Reinforcement Learning, KDD 2017.",
)
CSS = """
:root{color-scheme:light dark;--text:#1f2328;--soft:#57606a;--line:#d8dee4;--back:#fff;--box:#f6f8fa;--warn:#9a6700}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--soft:#9aa4af;--line:#3d444d;--back:#12161c;--box:#1a2028;
--warn:#d8a13a}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
main{max-width:56rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 1rem}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-top:.7rem;border-top:1px solid var(--line)}
ul{padding-left:1.2rem;margin:.5rem 0}li{margin:.25rem 0}
.caution{border-left:4px solid var(--warn);background:var(--box);padding:.7rem 1rem;margin:1.2rem 0}
.caution strong{color:var(--warn)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}
td:first-child{font-weight:600}
.note,figcaption,footer{color:var(--soft);font-size:.85rem}
figure{margin:.8rem 0}img{max-width:100%;height:auto;display:block}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.2rem;font-size:.9rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media(max-width:36rem){dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}}
"""
ORDER: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (  # heading, tables, figures
    ("Final scores", ("final",), ("final_scores",)),
    ("Beside the baseline", ("difference",), ("differences",)),
    ("Learning", ("speed",), ("learning_curves",)),
    ("Beside the published numbers", ("paper",), ()),
    ("What the transfers did", ("information",), ("information", "kl")),
    ("Actions before and after alignment", (), ("actions",)),
    ("Every run", ("runs",), ()),
)


def make_tables(comparison: Comparison) -> dict[str, Table | None]:
    """Every table of the report; None where there is nothing to say."""
    scored = bool(tables.scored(comparison))
    return {
        "final": tables.final_table(comparison) if scored else None,
        "difference": tables.difference_table(comparison),
        "speed": tables.speed_table(comparison),
        "paper": tables.paper_table(comparison),
        "information": tables.information_table(comparison),
        "runs": tables.runs_table(comparison),
    }


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Writes ``report.html``, ``report.md`` and ``<figure>.png`` to ``folder``; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    made = make_tables(comparison)
    drawn: list[str] = []
    pictures: dict[str, str] = {}
    for name in FIGURES:
        png = draw(name, comparison, LIGHT, "png")
        if png is None:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of an earlier report
            continue
        write_whole(folder / f"{name}.png", png)
        drawn.append(name)
        light, dark = (draw(name, comparison, theme, "svg") or b"" for theme in (LIGHT, DARK))
        pictures[name] = picture(light, dark, CAPTIONS[name])
    write_whole(folder / "report.html", html(comparison, made, pictures).encode())
    write_whole(folder / "report.md", markdown(comparison, made, drawn).encode())
    return folder / "report.html"


def picture(light: bytes, dark: bytes, caption: str) -> str:
    """A figure that follows the reader's colour scheme."""
    first, second = (f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" for svg in (light, dark))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{second}">'
        f'<img src="{first}" alt="{escape(caption)}"></picture><figcaption>{escape(caption)}</figcaption></figure>'
    )


def html(comparison: Comparison, made: dict[str, Table | None], pictures: dict[str, str]) -> str:
    """The page."""
    parts = [f"<h1>{escape(comparison.name)}</h1>"]
    parts += [f"<p>{escape(sentence)}</p>" for sentence in tables.findings(comparison)]
    if cautions := tables.cautions(comparison):
        items = "".join(f"<li>{escape(c)}</li>" for c in cautions)
        parts.append(f'<div class="caution"><strong>What cannot be concluded</strong><ul>{items}</ul></div>')
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(what)}</dd>" for term, what in tables.facts(comparison))
    parts.append(f"<dl>{terms}</dl>")
    for heading, names, figures in ORDER:
        content = [html_table(table) for name in names if (table := made[name])]
        content += [pictures[name] for name in figures if name in pictures]
        if content:
            parts += [f"<h2>{escape(heading)}</h2>", *content]
    sources = "".join(f"<li>{escape(source)}</li>" for source in SOURCES)
    parts.append(f"<h2>Definitions</h2><ul class=note>{sources}</ul>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(comparison.name)}</title><style>{CSS}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def html_table(table: Table) -> str:
    """A table and its note."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'


def markdown(comparison: Comparison, made: dict[str, Table | None], drawn: list[str]) -> str:
    """The same as Markdown, with the figures as files beside it."""
    parts = [f"# {comparison.name}", *tables.findings(comparison)]
    if cautions := tables.cautions(comparison):
        parts.append("**What cannot be concluded**\n\n" + "\n".join(f"- {caution}" for caution in cautions))
    parts.append("\n".join(f"- {term}: {what}" for term, what in tables.facts(comparison)))
    for heading, names, figures in ORDER:
        content = [markdown_table(table) for name in names if (table := made[name])]
        content += [f"![{heading}]({name}.png)\n\n{CAPTIONS[name]}" for name in figures if name in drawn]
        if content:
            parts += [f"## {heading}", *content]
    parts += ["## Definitions", "\n".join(f"- {source}" for source in SOURCES)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table and its note."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [line(table.head), line(("---",) * len(table.head)), *map(line, table.rows)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")
