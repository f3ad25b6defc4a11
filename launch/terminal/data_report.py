"""The report on a data set's images on the terminal, and the bar while they are looked at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clf.config.faults import one_line
from clf.data.check import Report
from clf.data.findings import LOOK, Finding
from clf.data.reader import SPLITS
from launch.terminal.screen import announce, is_live, print_columns, print_notes

MOST_CLASSES = 20  # lines; the classes with the fewest training images come first


@contextmanager
def progress_bar(out: Any, total: int) -> Iterator[Callable[[int], None]]:
    """A bar that is called with the number of further images that are done; a line where the
    output is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    if not is_live(out):
        announce(f"looking at {total} images ...")
        yield lambda images: None
        return
    columns = ("images", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda images: bar.advance(task, images)


def print_report(out: Any, report: Report) -> None:
    """Faults and notes, the classes, sizes and colours, and a line for each finding."""
    for fault in report.faults:
        out.print(f"fault: {fault}", markup=False, style="bold red")
    print_notes(report.notes)
    _print_classes(out, report)
    for name, values in report.sizes.items():
        low, five, middle, most, high = (f"{value:g}" for value in values)
        out.print(
            f"{name:<15} {middle} in the middle, {five} to {most} for 9 of 10, {low} to {high}"
        )
    if report.mean:
        mean, std = (" ".join(f"{v:.3f}" for v in values) for values in (report.mean, report.std))
        out.print(f"{'colours':<15} mean {mean}, std {std} of the training images")
    rows = [[one.title, one.weight, str(len(one.groups)), example(one)] for one in report.findings]
    if rows:
        out.print()
        print_columns(out, ["finding", "weight", "number", "such as"], rows)
    stops = bool(report.faults) or any(one.weight != LOOK for one in report.findings)
    words = "A run on these images would stop, or its numbers would be false."
    right = f"Nothing in these {report.images} images would stop a run or falsify its numbers."
    out.print(f"\n{words if stops else right}", style="bold red" if stops else "bold green")


def example(finding: Finding) -> str:
    """The first group of a finding in words."""
    shown = [
        f"{item.place or item.label}{f' ({item.words})' if item.words else ''}"
        for item in finding.groups[0][:3]
    ]
    return one_line(" = ".join(shown))


def _print_classes(out: Any, report: Report) -> None:
    by_number = sorted(report.counts.items(), key=lambda item: (item[1]["train"], item[0]))
    rows = [[one_line(name), *(str(of[split]) for split in SPLITS)] for name, of in by_number]
    total = [str(sum(of[split] for of in report.counts.values())) for split in SPLITS]
    shown = rows[:MOST_CLASSES]
    if len(rows) > len(shown):
        shown.append([f"... {len(rows) - len(shown)} more", "", "", ""])
    print_columns(out, ["class", *SPLITS], [*shown, ["all", *total]])
    out.print()
