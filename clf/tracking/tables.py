"""The per-class table: the same rows as CSV, in W&B and on the terminal. Imports no torch.

Columns: class, then those of `clf.metrics.columns.CLASS_COLUMNS`; on several nodes also
support/<node> and correct/<node>. A value that does not exist, such as the accuracy of a class
without images, is an empty cell, None or "n/a", and never 0.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clf.config.faults import one_line
from clf.metrics.columns import CLASS_COLUMNS, ClassColumn, class_accuracy
from clf.metrics.measures import percent
from clf.run_folder import write_text

if TYPE_CHECKING:
    from rich.table import Table

BAR_WIDTH = 20  # characters
USUAL = 80  # characters of a terminal


@dataclass(frozen=True)
class PerClassRow:
    """The counts of a class, and some of them by node."""

    name: str
    support: int  # images of the class
    correct: int  # those of them that were predicted as the class
    predicted: int | None = None  # images predicted as the class; None: not known
    nodes: dict[str, tuple[int, int]] = field(default_factory=dict)  # node -> (support, correct)

    @property
    def accuracy(self) -> float | None:
        return class_accuracy(*self.counts)

    @property
    def counts(self) -> tuple[int, int, int | None]:
        return self.support, self.correct, self.predicted

    def cells(self) -> list[Any]:
        """The row's values in the order of `header`."""
        values = [column.compute(*self.counts) for column in CLASS_COLUMNS]
        by_node = [count for counts in self.nodes.values() for count in counts]
        return [self.name, *values, *by_node]


def rows_from_counts(
    classes: Sequence[str],
    support_NC: Any,
    correct_NC: Any,
    predicted_C: Any,
    nodes: Sequence[str] = (),
) -> list[PerClassRow]:
    """Rows from the counts of `clf.metrics.counts`, int64 [N nodes, C classes] and [C].

    Args:
        nodes: their names, N of them; with one node there are no columns by node
    """
    support, correct = support_NC.tolist(), correct_NC.tolist()
    rows = []
    for c, (name, predicted) in enumerate(zip(classes, predicted_C.tolist(), strict=True)):
        counts = [(support[n][c], correct[n][c]) for n in range(len(support))]
        by_node = dict(zip(nodes, counts, strict=True)) if len(nodes) > 1 else {}
        total, right = (sum(column) for column in zip(*counts, strict=True))
        rows.append(PerClassRow(name, total, right, predicted, by_node))
    return rows


def header(rows: Sequence[PerClassRow]) -> list[str]:
    nodes = rows[0].nodes if rows else {}
    by_node = [f"{count}/{node}" for node in nodes for count in ("support", "correct")]
    return ["class", *(column.name for column in CLASS_COLUMNS), *by_node]


def write_csv(rows: Sequence[PerClassRow], path: Path) -> None:
    """All classes in label order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(rows))
    writer.writerows(["" if cell is None else cell for cell in row.cells()] for row in rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[PerClassRow]:
    """The rows of a file that `write_csv` wrote."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: dict[str, str]) -> PerClassRow:
    nodes = [name.removeprefix("support/") for name in cells if name.startswith("support/")]
    by_node = {n: (int(cells[f"support/{n}"]), int(cells[f"correct/{n}"])) for n in nodes}
    predicted = cells.get("predicted")  # tables of older versions lack it
    return PerClassRow(
        cells["class"],
        int(cells["support"]),
        int(cells["correct"]),
        int(predicted) if predicted else None,
        by_node,
    )


def worst_first(rows: Iterable[PerClassRow]) -> list[PerClassRow]:
    """The lowest accuracy first, among equals the class with more images; classes without images
    last."""
    return sorted(
        rows,
        key=lambda row: (row.accuracy is None, row.accuracy or 0.0, -row.support),
    )


def worst_and_best(rows: Sequence[PerClassRow], most: int) -> Sequence[PerClassRow]:
    """All rows as they are, or if there are more than `most`, half as many of the worst classes and
    as many of the best, the worst first."""
    if len(rows) <= most:
        return rows
    ordered = worst_first(rows)
    seen = sum(row.accuracy is not None for row in rows)
    if seen <= most:
        return ordered[:most]
    best = most // 2
    return ordered[: most - best] + ordered[seen - best : seen]


def render(
    rows: Sequence[PerClassRow],
    title: str,
    limit: int | None = None,
    whole: str = "",
    width: int = USUAL,
) -> "Table":
    """A Rich table of the `limit` worst classes, with a bar that shows the worst at a glance.

    Args:
        whole: where all rows are; with it, a line below says how many more there are
        width: of the terminal, in columns; a narrow one lacks some columns of the table
    """
    from rich import box
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    columns = [column for column in CLASS_COLUMNS if width >= column.width]
    left_out = 0 if limit is None else max(0, len(rows) - limit)
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        caption=Text(f"{left_out} more classes: {whole}") if left_out and whole else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("class", no_wrap=True)  # a name that is broken cannot be copied
    for column in columns:
        table.add_column(column.name, justify="right", no_wrap=True, min_width=len(column.name))
    table.add_column("", max_width=BAR_WIDTH)
    for row in worst_first(rows)[:limit]:
        values = [_shown(column, column.compute(*row.counts)) for column in columns]
        bar = Bar(1.0, 0.0, row.accuracy or 0.0, color=_colour(row.accuracy))
        table.add_row(Text(one_line(row.name)), *values, bar)
    return table


def _shown(column: ClassColumn, value: float | None) -> str:
    if column.share or value is None:
        return percent(value)
    return str(value)


def _colour(accuracy: float | None) -> str:
    if accuracy is None:
        return "default"
    return "red" if accuracy < 0.7 else "yellow" if accuracy < 0.9 else "green"
