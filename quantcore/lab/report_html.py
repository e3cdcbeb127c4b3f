"""A report as one HTML file that opens anywhere and asks nothing of the network."""

from __future__ import annotations

import json
import math
from html import escape
from typing import Any

from quantcore.export.plain import plain
from quantcore.lab import svg
from quantcore.lab.report import Document, Histograms, Intervals, Table

STYLE = """
:root{--ink:#1d2430;--soft:#5b6675;--paper:#fff;--line:#d9dee6;--one:#1f6fb2;--two:#c2571a;--three:#4b8b3b}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#a3adba;--paper:#14181f;--line:#39414d;--one:#6db3f2;
--two:#f2975a;--three:#8fce7d}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin-top:2rem}.when{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600}td{white-space:nowrap}.facts td{white-space:normal;overflow-wrap:anywhere}
td.number{text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;font:13px system-ui,sans-serif}svg text{fill:var(--ink)}svg .unit{fill:var(--soft)}
.grid{stroke:var(--line)}.zero{stroke:var(--soft);stroke-width:1.5}.whisker{stroke:var(--one);stroke-width:2}
.dot{fill:var(--one)}.step{fill:none;stroke-width:1.6}details{margin:1rem 0}summary{cursor:pointer;font-weight:600}
"""


def to_html(document: Document) -> str:
    """The document as one file: styles, pictures and the JSON inside."""
    body = [f"<h1>{escape(document.title)}</h1>", f"<p class=when>{escape(document.made)}</p>"]
    body += [f"<p>{escape(sentence)}</p>" for sentence in document.sentences]
    body += [f"<h2>{escape(one.title)}</h2>{_draw(one)}" for one in document.pictures]
    body += [_html_table(table) for table in document.tables]
    facts = tuple((name, _shown(value)) for name, value in {**document.facts, "versions": document.versions}.items())
    body.append(f"<div class=facts>{_html_table(Table('To do it again', ('what', 'value'), facts))}</div>")
    body.append(f"<h2>Conventions</h2><ul>{''.join(f'<li>{escape(one)}</li>' for one in document.conventions)}</ul>")
    data = json.dumps(plain(document), allow_nan=False).replace("<", "\\u003c")
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(document.title)}</title><style>{STYLE}</style></head><body>{''.join(body)}"
        f'<script type="application/json" id="data">{data}</script></body></html>\n'
    )


def _draw(picture: Intervals | Histograms) -> str:
    if isinstance(picture, Intervals):
        return svg.intervals(picture.rows, picture.unit, picture.title)
    return svg.histograms(picture.edges, picture.counts, picture.unit, picture.title)


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in table.rows)
    inner = f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>{inner}</details>"
    return f"<h2>{escape(table.title)}</h2>{inner}"


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{escape(_shown(value))}</td>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return " ".join(_shown(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items())
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)
