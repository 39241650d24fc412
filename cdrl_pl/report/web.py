"""A report's page as HTML that needs no other file: on screens light and dark, on telephones, and on paper."""

from __future__ import annotations

import base64
import re
from html import escape

from cdrl_pl.report.contents import Figure, Page
from cdrl_pl.report.style import dark
from cdrl_pl.report.tables import Table


def text(said: str) -> str:
    """As text of a page, on one line."""
    return escape(" ".join(said.split()))


def html(page: Page) -> str:
    """The page."""
    parts = [f"<header><h1>{text(page.title)}</h1>", f'<p class="question">{text(page.question)}</p>']
    parts += [f"<p>{text(page.method)}</p></header>", html_figure(page.curves), "<h2>What came out</h2>"]
    parts.append(_list(page.findings))
    if page.cautions:
        parts.append(f'<div class="caution"><strong>What cannot be concluded</strong>{_list(page.cautions)}</div>')
    for heading, made, figures in page.sections:
        first, *others = [*map(html_table, made), *map(html_figure, figures)]
        parts.append(f'<section><div class="keep"><h2>{text(heading)}</h2>{first}</div>{"".join(others)}</section>')
    terms = "".join(f"<dt>{text(term)}</dt><dd>{text(what)}</dd>" for term, what in page.facts)
    if page.command:
        terms += f"<dt>This page again</dt><dd><code>{text(page.command)}</code></dd>"
    parts.append(f'<section><div class="keep"><h2>How it was run</h2><dl>{terms}</dl></div></section>')
    parts.append(f'<section class="note"><div class="keep"><h2>Definitions</h2>{_list(page.sources)}</div></section>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(page.title)}</title><style>{CSS}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _list(sentences: list[str] | tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{text(sentence)}</li>' for sentence in sentences)}</ul>"


def html_table(table: Table) -> str:
    """A table and its note."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    note = f'<p class="note">{text(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(table.title)}"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>{note}"
    )


def _cell(cell: str) -> str:
    """A number and its interval, which lines are broken between and not within."""
    return re.sub(r"([+-]?\d[\d.]*) (\[[^]]*\])", r"<b>\1</b> <i>\2</i>", text(cell))


def html_figure(figure: Figure) -> str:
    """A figure in four versions; the style sheet shows one, by colour scheme and width, and on paper the first."""
    wide, narrow, said = figure.drawing.svg, figure.drawing.narrow, text(figure.alt)
    versions = {"light wide": wide, "dark wide": dark(wide), "light narrow": narrow, "dark narrow": dark(narrow)}
    pictures = "".join(
        f'<img class="{kind}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" alt="{said}">'
        for kind, svg in versions.items()
    )
    return f"<figure>{pictures}<figcaption>{text(figure.caption)}</figcaption></figure>"


CSS = """
:root{color-scheme:light dark;--text:#1f2328;--soft:#57606a;--line:#d8dee4;--back:#fff;--box:#f6f8fa;--warn:#8a5a00}
@media screen and (prefers-color-scheme:dark){:root{--text:#e6edf3;--soft:#9aa4af;--line:#3d444d;--back:#12161c;
--box:#1a2028;--warn:#d8a13a}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif;overflow-wrap:break-word}
main{max-width:56rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 1rem}
h2{font-size:1.2rem;margin:2.6rem 0 .6rem;padding-top:.7rem;border-top:1px solid var(--line)}
figure+h2{margin-top:1.6rem;border:0;padding:0}
.question{font-size:1.15rem;font-weight:600;margin:.5rem 0}
ul{padding-left:1.2rem;margin:.5rem 0}li{margin:.25rem 0}
.caution{border-left:4px solid var(--warn);background:var(--box);padding:.7rem 1rem;margin:1.2rem 0;font-size:.92rem}
.caution strong{color:var(--warn)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.4rem 1rem .4rem 0;border-bottom:1px solid var(--line)}
thead th{font-weight:600;color:var(--soft)}
tbody th{font-weight:600;min-width:9rem}
td b{font-weight:600}td i{font-style:normal;color:var(--soft);white-space:nowrap}td b{white-space:nowrap}
.note,figcaption{color:var(--soft);font-size:.85rem}
figure{margin:.8rem 0}img{width:100%;height:auto;display:none}.light.wide{display:block}
@media screen and (max-width:36rem){.light.wide{display:none}.light.narrow{display:block}}
@media screen and (prefers-color-scheme:dark){.light.wide,.light.narrow{display:none}.dark.wide{display:block}}
@media screen and (max-width:36rem) and (prefers-color-scheme:dark){.dark.wide{display:none}.dark.narrow{display:block}}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.2rem;font-size:.9rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code{font-size:.9em;background:var(--box);padding:.1rem .3rem}
@media screen and (max-width:36rem){main{padding:1.2rem 1rem 3rem}h1{font-size:1.5rem}
dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}
table{width:max-content;min-width:100%}td{max-width:11rem}
tbody th{position:sticky;left:0;background:var(--back);min-width:7rem;max-width:8.5rem}}
@media print{@page{margin:16mm 14mm}body{font-size:10pt}main{max-width:none;padding:0}
h1,h2,thead{break-after:avoid}.keep,figure,tr,li,.caution{break-inside:avoid}
thead{display:table-header-group}.scroll{overflow:visible}p,li{orphans:3;widows:3}
h2{margin-top:1.4rem}img{max-height:205mm;width:auto;max-width:100%}}
"""
