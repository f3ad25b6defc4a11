"""A run beside another one, in short: what differs by more than noise."""

from typing import Any

from clf.config.faults import printable
from clf.metrics.measures import line, percent
from clf.report.compare import Difference
from clf.report.comparison import Compared, interval, points
from clf.report.read import RunReport
from launch.terminal.screen import print_columns

MOST_CLASSES = 20
MOST_SETTINGS = 12


def print_comparison(out: Any, first: RunReport, one: Compared) -> None:
    """Top-1 and macro, the classes that differ by more than noise, and the settings that differ."""
    out.print(
        f"{printable(one.run.name)} beside {printable(first.name)}", style="bold", markup=False
    )
    if one.comparison is None:
        out.print(one.why, style="yellow", markup=False)
        for run in (first, one.run):
            numbers = line(run.numbers, run.split)
            out.print(f"  {printable(run.name)}: {run.split} {numbers}", markup=False)
    else:
        for note in one.comparison.notes:
            out.print(f"note: {note}", markup=False)
        clear = one.comparison.clear
        rows = [_row(number) for number in [*one.comparison.overall, *clear[:MOST_CLASSES]]]
        columns = ["", "images", "first", "second", "points", "95 % interval", "verdict"]
        print_columns(out, columns, rows)
        more = len(clear) - MOST_CLASSES
        rest = f", of which {more} are not listed" if more > 0 else ""
        out.print(
            f"{len(clear)} of {len(one.comparison.classes)} classes differ by more than noise{rest}"
        )
    settings = [[key, str(was), str(now)] for key, was, now in one.settings]
    if settings:
        print_columns(out, ["setting", "first", "second"], settings[:MOST_SETTINGS])
    if (more := len(settings) - MOST_SETTINGS) > 0:
        out.print(f"and {more} more settings")
    out.print()


def _row(number: Difference) -> list[str]:
    return [
        printable(number.name),
        f"{number.support:,}",
        percent(number.first),
        percent(number.second),
        points(number.difference),
        interval(number),
        "more than noise" if number.more_than_noise else "within noise",
    ]
