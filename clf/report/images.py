"""The curves and the confusion matrix as PNG files, for a paper or a message."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from clf.atomic import write_file
from clf.config.faults import printable
from clf.report.charts import curves
from clf.report.read import RunReport

DPI = 110
MOST_NAMES = 60  # classes that are named at an axis
MOST_PLACES = 1000  # of a side of the matrix, which has fewer pixels than twice that


def write_images(run: RunReport, folder: Path) -> None:
    """curves.png, if the run has logged something, and confusion.png, if it has predictions."""
    from matplotlib.figure import Figure

    def save(figure: Figure, name: str) -> None:
        def write(temporary: Path) -> None:
            figure.savefig(temporary, format="png", dpi=DPI)

        write_file(folder / name, write)

    os.environ.setdefault("MPLBACKEND", "agg")
    if drawn := curves(run):
        rows = -(-len(drawn) // 3)
        figure = Figure(figsize=(13, 3.4 * rows), layout="constrained")
        for place, (title, chart) in enumerate(drawn):
            axes = figure.add_subplot(rows, 3, place + 1)
            for series in chart["data"]:
                axes.plot(series["x"], series["y"], label=_plain(series["name"]), linewidth=1.4)
            for mark in chart["layout"]["shapes"]:
                axes.axvline(mark["x0"], color="0.6", linestyle=":", linewidth=1)
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
            if chart["layout"]["showlegend"]:
                axes.legend()
        save(figure, "curves.png")
    if run.predictions is not None:
        save(_confusion(run), "confusion.png")


def _confusion(run: RunReport) -> Any:
    from matplotlib.figure import Figure

    assert run.predictions is not None
    classes = run.predictions.classes
    counts_DD, spans = run.predictions.confusion(MOST_PLACES)
    share_DD = counts_DD / np.maximum(counts_DD.sum(axis=1, keepdims=True), 1)
    names = [_plain(printable(name)) for name in classes]
    side = min(14.0, 4 + 0.22 * min(len(names), MOST_NAMES))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.imshow(share_DD, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="share of the class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(spans) < len(names):
        axes.set_title(f"{len(names):,} classes as {len(spans):,}: neighbours are added up")
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    return figure


def _plain(name: str) -> str:
    """A name that matplotlib does not read as a formula, and on one line."""
    return " ".join(name.split()).replace("$", r"\$")[:40]
