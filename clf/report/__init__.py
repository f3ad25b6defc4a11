"""The report of a run: report.html, one file which loads nothing from elsewhere, with curves.png
and confusion.png beside it.

    write_report(Path("runs/NAME"))

Read `sections.py` first: what the page shows. `read.py` reads the run folder, `charts.py` makes the
charts and `images.py` the PNGs; `page.py`, style.css and script.js are the page.
"""

from dataclasses import replace
from pathlib import Path

from clf.atomic import private_files, write_text
from clf.predictions import Predictions
from clf.report.images import write_images
from clf.report.page import page
from clf.report.read import RunReport, read_run
from clf.report.sections import sections, top

__all__ = ["RunReport", "read_run", "write_page", "write_report"]


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run, and the PNGs beside it.

    Args:
        out: the HTML file; None: report.html in the run folder

    Returns:
        the HTML file

    Raises:
        ValueError: `folder` is no run folder, or a file in it is damaged
    """
    run = read_run(folder)
    if out is not None:
        return write_page(run, out)
    with private_files():
        return write_page(run, run.folder.report)


def write_page(run: RunReport, out: Path) -> Path:
    """The page of a run, which may show another evaluation than the run's own (`evaluated`)."""
    write_text(out, page(run.name, top(run), sections(run)))
    write_images(run, out.parent)
    return out


def evaluated(
    run: RunReport,
    predictions: Predictions,
    numbers: dict[str, float],
    per_class: list[dict[str, str]],
    pictures: Path,
    source: str,
) -> RunReport:
    """The report of a run with the evaluation of other images in place of its own.

    Args:
        numbers: "<split>/acc_top1", ...
        per_class: rows of the per-class table, cells as text
        pictures: folder of <index>.jpg
        source: where the images come from, in words
    """
    return replace(
        run,
        split=predictions.split,
        predictions=predictions,
        numbers=numbers,
        per_class=per_class,
        pictures=pictures,
        source=source,
    )
