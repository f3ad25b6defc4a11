"""The report on a data set's images as one HTML file, with thumbnails of the worst."""

import base64
import io
from html import escape

from clf.config.faults import printable
from clf.data.check import Report
from clf.data.decode import decode
from clf.data.findings import Finding, Item
from clf.data.reader import SPLITS, DataError

MOST_GROUPS = 60  # of a finding that are shown
MOST_COPIES = 4  # of a group
SIDE = 120  # pixels of a thumbnail
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .15em .8em; text-align: right }
td:first-child, th:first-child { text-align: left } th { border-bottom: 1px solid #888 }
details { margin: 1em 0 } summary { cursor: pointer; font-weight: 600 }
.bad { color: light-dark(#b00020, #ff8a9a) }
.groups { display: flex; flex-wrap: wrap; gap: 12px; margin-top: .6em }
.group { display: flex; gap: 4px; border: 1px solid #8886; border-radius: 6px; padding: 6px }
figure { margin: 0; width: 132px; font-size: 12px; overflow-wrap: anywhere }
img, .none { width: 120px; height: 120px; object-fit: contain; background: #8882; display: block }
.none { line-height: 120px; text-align: center; color: light-dark(#b00020, #ff8a9a) }
"""


def page(report: Report) -> str:
    """The whole file; it loads nothing from elsewhere."""
    verdict = (
        '<p class="bad"><b>A run on these images would stop, or its numbers would be false.</b></p>'
        if report.spoils
        else "<p><b>Nothing in these images would stop a run or falsify its numbers.</b></p>"
    )
    faults = "".join(f'<li class="bad">{_text(fault)}</li>' for fault in report.faults)
    notes = "".join(f"<li>{_text(note)}</li>" for note in report.notes)
    parts = [
        f"<h1>{_text(report.root)}</h1>",
        f"<p>{report.images} images of {len(report.counts)} classes</p>",
        verdict,
        f"<ul>{faults}{notes}</ul>",
        *(_finding(one) for one in report.findings),
        *_labels(report),
        "<h2>Images of each class</h2>",
        _table(
            ["class", *SPLITS],
            [[name, *(str(of[split]) for split in SPLITS)] for name, of in report.counts.items()],
        ),
        "<h2>Sizes</h2>",
        _table(
            ["", "least", "5 %", "half", "95 %", "most"],
            [[name, *(f"{v:g}" for v in values)] for name, values in report.sizes.items()],
        ),
    ]
    if report.mean:
        colours = {"mean": report.mean, "standard deviation": report.std}
        parts.append("<h2>Colours of the training images, from 0 to 1</h2>")
        rows = [[name, *(f"{v:.4f}" for v in values)] for name, values in colours.items()]
        parts.append(_table(["", "red", "green", "blue"], rows))
    title = f"<title>{_text(report.root)}</title><style>{STYLE}</style>"
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{title}</head>'
    return f"{head}<body>{''.join(parts)}</body></html>\n"


def _labels(report: Report) -> list[str]:
    """The classes whose labels are doubtful, the worst first, where runs have scored them."""
    rows = [
        [one.name, str(one.scored), str(one.suspected), f"{one.suspected / one.scored:.1%}"]
        for one in report.labels
        if one.suspected
    ]
    head = ["class", "labels scored", "probably wrong", ""]
    return ["<h2>Doubtful labels of each class</h2>", _table(head, rows)] if rows else []


def _finding(finding: Finding) -> str:
    groups = "".join(
        f'<div class="group">{"".join(map(_figure, group[:MOST_COPIES]))}</div>'
        for group in finding.groups[:MOST_GROUPS]
    )
    more = len(finding.groups) - MOST_GROUPS
    rest = f"<p>and {more} more, which report.json lists</p>" if more > 0 else ""
    return (
        f"<details open><summary>{_text(finding.title)}: {len(finding.groups)} "
        f"({finding.weight})</summary>"
        f'<div class="groups">{groups}</div>{rest}</details>'
    )


def _figure(item: Item) -> str:
    words = f"<b>{_text(item.words)}</b>" if item.words else ""
    lines = [f"{_text(item.split)} / {_text(item.label)}", _text(item.place), words]
    caption = f"<figcaption>{'<br>'.join(filter(None, lines))}</figcaption>"
    return f"<figure>{_thumbnail(item) if item.image else ''}{caption}</figure>"


def _thumbnail(item: Item) -> str:
    from PIL import Image

    try:
        picture = Image.fromarray(decode(item.image, SIDE))
    except (DataError, MemoryError):
        return '<div class="none">no picture</div>'
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _text(text: str) -> str:
    return escape(printable(text))
