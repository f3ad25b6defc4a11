"""The page around the sections of a report: one file, which loads nothing from elsewhere."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from clf.config.faults import printable

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        id: of the section in the page, for links
        title: its heading, and its word in the page's navigation
        html: below the heading; texts in it went through `text`
        data: what the script needs for it, by kind: "charts" and "tables" are joined with those of
            other sections, so their keys differ
    """

    id: str
    title: str
    html: str
    data: Mapping[str, Any] = field(default_factory=dict)


def text(value: object) -> str:
    """Any text as HTML that shows it."""
    return escape(printable(str(value)))


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names with their values, which are HTML; empty ones are left out."""
    items = (f"<dt>{text(name)}</dt><dd>{html}</dd>" for name, html in pairs if html)
    return f"<dl>{''.join(items)}</dl>"


def plot(id: str, size: str = "") -> str:
    """The place of the chart of that name in a section's `data["charts"]`."""
    return f'<div class="plot {size}" id="{id}"></div>'


def page(title: str, top: str, sections: Iterable[Section]) -> str:
    """The whole file.

    Args:
        top: HTML above the first section
    """
    shown = list(sections)
    data: dict[str, Any] = {"charts": {}, "tables": {}, "lists": {}}
    for section in shown:
        for kind, value in section.data.items():
            data[kind] = {**data[kind], **value} if kind in data else value
    links = "".join(f'<li><a href="#{one.id}">{text(one.title)}</a></li>' for one in shown)
    body = "".join(
        f'<section id="{one.id}" aria-labelledby="{one.id}-title"><h2 id="{one.id}-title">'
        f"{text(one.title)}</h2>{one.html}</section>"
        for one in shown
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{_file("style.css")}</style>
</head>
<body>
<a class="skip" href="#{shown[0].id if shown else "top"}">to the content</a>
<header id="top">{top}</header>
<nav aria-label="sections"><ul>{links}</ul></nav>
<main>{body}</main>
<footer>Written by clf from the run's folder alone. The page loads nothing from elsewhere.</footer>
<script type="application/json" id="report-data">{_json(data)}</script>
<script>{_plotly()}</script>
<script>{_file("script.js")}</script>
</body>
</html>
"""


def _json(data: Any) -> str:
    """JSON that may stand in a script element: no name can end it, or begin a comment in it."""
    plain = json.dumps(_shown(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c")


def _shown(value: Any) -> Any:
    """Numbers that JSON lacks become null, and bytes that are no UTF-8 what `printable` shows."""
    if isinstance(value, Mapping):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js from the installed package: 4.8 MB, which every browser can read offline."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
