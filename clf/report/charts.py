"""The charts of a report in plotly's own form, {"data": [...], "layout": {...}}; the page draws
them with the plotly.js that is in it.

N images, C classes, M bins of confidence.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from clf.config.faults import printable
from clf.metrics.measures import BINS
from clf.predictions import Predictions
from clf.report.read import RunReport

Chart = dict[str, Any]
MOST_POINTS = 2000  # of a curve
MOST_CLASSES = 100  # a side of a confusion matrix that is drawn; more are added up into so many
# (title, [(column or its beginning, label)], unit of the axis)
CURVES = [
    ("Loss", [("train/loss", "training"), ("val/loss", "validation")], ""),
    ("Top-1 accuracy", [("train/acc_top1", "training"), ("val/acc_top1", "validation")], "%"),
    ("Macro accuracy", [("train/acc_macro", "training"), ("val/acc_macro", "validation")], "%"),
    ("Learning rate", [("lr-", "")], ""),
    ("Images a second", [("train/images_per_second", "all devices")], ""),
    ("Waiting for data", [("train/waiting_share", "share of the time")], "%"),
    ("Gradient norm", [("train/grad_norm", "before clipping")], ""),
]


def curves(run: RunReport) -> list[tuple[str, Chart]]:
    """(title, chart) for each number that the run has logged, over the optimizer's steps."""
    marks = _starts(run)
    found = []
    for title, columns, unit in CURVES:
        series = [
            series_of(run, column, label, unit)
            for start, label in columns
            for column in _columns(run, start)
        ]
        series = [one for one in series if one["x"]]
        if len({tuple(one["y"]) for one in series}) < len(series):  # groups that move together
            series = list({tuple(one["y"]): one for one in series}.values())
        if not series:
            continue
        layout: Chart = {
            "xaxis": {"title": {"text": "step"}},
            "yaxis": {"tickformat": ".1~%" if unit == "%" else "", "rangemode": "normal"},
            "shapes": [_line(step) for step, _ in marks],
            "annotations": [_word(step, word) for step, word in marks],
            "showlegend": len(series) > 1,
        }
        found.append((title, {"data": series, "layout": layout}))
    return found


def _columns(run: RunReport, start: str) -> list[str]:
    names = dict.fromkeys(name for row in run.scalars for name in row)
    return [name for name in names if name == start or (start == "lr-" and name.startswith(start))]


def series_of(run: RunReport, column: str, label: str, unit: str) -> Chart:
    points = _thinned([row for row in run.scalars if row.get(column) and row.get("step")], column)
    y = [float(row[column]) for row in points]
    value = "%{y:.1%}" if unit == "%" else "%{y:.4g}"
    place = "step %{x}, epoch %{customdata}"
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) < 40 else "lines",
        "name": label or column.removeprefix("lr-"),
        "x": [int(float(row["step"])) for row in points],
        "y": y,
        "customdata": [row.get("epoch", "") for row in points],
        "hovertemplate": f"{place}<br>{value}<extra>%{{fullData.name}}</extra>",
    }


def _thinned(rows: list[dict[str, str]], column: str) -> list[dict[str, str]]:
    """At most `MOST_POINTS` rows: of equal parts the lowest and the highest, so that no peak is
    lost."""
    if len(rows) <= MOST_POINTS:
        return rows
    places: set[int] = set()
    for part in np.array_split(np.arange(len(rows)), MOST_POINTS // 2):
        values = np.nan_to_num(np.array([float(rows[place][column]) for place in part]))
        places |= {int(part[values.argmin()]), int(part[values.argmax()])}
    return [rows[place] for place in sorted(places)]


def _starts(run: RunReport) -> list[tuple[int, str]]:
    """(step, words) of each place where a further start of the run went on, and on which nodes."""
    found = []
    for before, after in zip(run.events, run.events[1:], strict=False):
        if after.get("event") == "start" and before.get("step") is not None:
            nodes = ", ".join(after.get("nodes") or [])
            words = f"start {after.get('restart', '')}" + (f" on {nodes}" if nodes else "")
            found.append((int(before["step"]), words))
    return found


def _line(step: int) -> Chart:
    line = {"width": 1, "dash": "dot", "color": "#999"}
    return {"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _word(step: int, words: str) -> Chart:
    return {
        "x": step,
        "y": 1,
        "yref": "paper",
        "text": plain(printable(words)),
        "showarrow": False,
        "xanchor": "left",
        "yanchor": "top",
        "font": {"size": 10},
    }


def confusion(predictions: Predictions) -> tuple[Chart, list[list[int]]]:
    """The confusion matrix as a heat map, each row in shares of its class; and for each row and
    column of the drawing the labels that it stands for, [first, last + 1]."""
    drawn_DD, spans = predictions.confusion(MOST_CLASSES)
    support_D = drawn_DD.sum(axis=1, keepdims=True)
    share_DD = drawn_DD / np.maximum(support_D, 1)
    names = _distinct([_span_name(predictions.classes, a, b) for a, b in spans])
    words = [_short(_span_name(predictions.classes, a, b)) for a, b in spans]
    chart = {
        "data": [
            {
                "type": "heatmap",
                "z": np.where(drawn_DD > 0, share_DD, np.nan).round(4).tolist(),
                "customdata": drawn_DD.tolist(),
                "zmin": 0,
                "zmax": 1,
                "hoverongaps": False,
                "colorbar": {"tickformat": ".0%", "thickness": 12},
                "x": names,
                "y": names,
                "hovertemplate": "%{y} taken for %{x}<br>%{customdata} images, "
                "%{z:.1%} of the class<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": _class_axis(names, words, "predicted"),
            "yaxis": {**_class_axis(names, words, "true"), "autorange": "reversed"},
        },
    }
    return _without_nan(chart), spans


def _without_nan(chart: Chart) -> Chart:
    (trace,) = chart["data"]
    trace["z"] = [[None if np.isnan(value) else value for value in row] for row in trace["z"]]
    return chart


def _span_name(classes: Sequence[str], first: int, end: int) -> str:
    name = printable(classes[first])
    return name if end - first == 1 else f"{name} … {printable(classes[end - 1])}"


def _distinct(names: list[str]) -> list[str]:
    """Names as plotly shows them; two that are printed alike would be one place of an axis."""
    seen = Counter(names)
    return [plain(f"{one} ({i})" if seen[one] > 1 else one) for i, one in enumerate(names)]


def plain(name: str) -> str:
    """A name in which plotly finds no markup: it reads some of HTML, links among it, in texts."""
    return name.replace("&", "&amp;").replace("<", "&lt;")


def _class_axis(names: list[str], words: list[str], title: str) -> Chart:
    """Every name at its place. Places are given by name, since plotly takes the number 7 for the
    class "7", if there is one; the page leaves out words where they have no room."""
    return {
        "type": "category",
        "title": {"text": title},
        "tickvals": names,
        "ticktext": [plain(word) for word in words],
        "showgrid": False,
        "zeroline": False,
    }


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def reliability(predictions: Predictions) -> Chart:
    """How often predictions of a confidence are right, by bins of it (Guo et al. 2017)."""
    images_M, right_M, _ = predictions.calibration(BINS)
    accuracy_M = right_M / np.maximum(images_M, 1)
    seen = images_M > 0
    centres_M = (np.arange(BINS) + 0.5) / BINS
    return {
        "data": [
            {
                "type": "bar",
                "name": "accuracy",
                "x": centres_M[seen].round(4).tolist(),
                "y": accuracy_M[seen].round(4).tolist(),
                "width": 0.9 / BINS,
                "customdata": images_M[seen].tolist(),
                "hovertemplate": "confidence about %{x:.0%}<br>%{y:.1%} of %{customdata} images "
                "are right<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "lines",
                "name": "as confident as right",
                "x": [0, 1],
                "y": [0, 1],
                "line": {"dash": "dot", "width": 1},
                "hoverinfo": "skip",
            },
        ],
        "layout": {
            "xaxis": {"title": {"text": "confidence"}, "tickformat": ".0%", "range": [0, 1]},
            "yaxis": {"title": {"text": "right"}, "tickformat": ".0%", "range": [0, 1]},
            "showlegend": True,
        },
    }


def distribution(run: RunReport) -> Chart | None:
    """Images of each class in each split, the most frequent class first."""
    train = run.images["train"]
    if not train:
        return None
    order = sorted(train, key=lambda name: -train[name])
    shown = {split: counts for split, counts in run.images.items() if any(counts.values())}
    many = len(order) > 60
    return {
        "data": [
            {
                "type": "scatter" if many else "bar",
                "name": split,
                "x": [plain(printable(name)) for name in order],
                "y": [counts.get(name, 0) for name in order],
                "hovertemplate": "%{x}: %{y}<extra>%{fullData.name}</extra>",
                **({"mode": "lines"} if many else {}),
            }
            for split, counts in shown.items()
        ],
        "layout": {
            "xaxis": {"type": "category", "showticklabels": not many, "title": {"text": "class"}},
            "yaxis": {"title": {"text": "images"}, "rangemode": "tozero"},
            "barmode": "group",
            "showlegend": True,
        },
    }
