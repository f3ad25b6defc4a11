"""The per-class table: the same rows as CSV, in W&B and on the terminal. Imports no torch.

Columns: class, support, correct, accuracy; on several nodes also support/<node>, correct/<node>.
A class without samples has no accuracy: an empty cell, None, "n/a", and never 0.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clf.run_folder import write_text

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ["class", "support", "correct", "accuracy"]
BAR_WIDTH = 20  # characters


@dataclass(frozen=True)
class PerClassRow:
    """A class's images, how many were right, and the same by node."""

    name: str
    support: int
    correct: int
    nodes: dict[str, tuple[int, int]] = field(default_factory=dict)  # node -> (support, correct)

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.support if self.support else None

    def cells(self) -> list[Any]:
        """The row's values in the order of `header`."""
        by_node = [count for counts in self.nodes.values() for count in counts]
        return [self.name, self.support, self.correct, self.accuracy, *by_node]


def rows_from_counts(
    classes: Sequence[str],
    support_NC: Any,
    correct_NC: Any,
    nodes: Sequence[str] = (),
) -> list[PerClassRow]:
    """Rows from the counts of `clf.metrics.counts`, int64 [N nodes, C classes].

    Args:
        nodes: their names, N of them; with one node there are no columns by node
    """
    support, correct = support_NC.tolist(), correct_NC.tolist()
    rows = []
    for c, name in enumerate(classes):
        counts = [(support[n][c], correct[n][c]) for n in range(len(support))]
        by_node = dict(zip(nodes, counts, strict=True)) if len(nodes) > 1 else {}
        rows.append(
            PerClassRow(name, sum(s for s, _ in counts), sum(k for _, k in counts), by_node)
        )
    return rows


def header(rows: Sequence[PerClassRow]) -> list[str]:
    nodes = rows[0].nodes if rows else {}
    return COLUMNS + [f"{what}/{node}" for node in nodes for what in ("support", "correct")]


def write_csv(rows: Sequence[PerClassRow], path: Path) -> None:
    """All classes in label order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header(rows))
    writer.writerows(["" if cell is None else cell for cell in row.cells()] for row in rows)
    write_text(path, text.getvalue())


def read_csv(path: Path) -> list[PerClassRow]:
    """The rows of a file that `write_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: dict[str, str]) -> PerClassRow:
    nodes = [name.removeprefix("support/") for name in cells if name.startswith("support/")]
    by_node = {n: (int(cells[f"support/{n}"]), int(cells[f"correct/{n}"])) for n in nodes}
    return PerClassRow(cells["class"], int(cells["support"]), int(cells["correct"]), by_node)


def worst_first(rows: Iterable[PerClassRow]) -> list[PerClassRow]:
    """Lowest accuracy first, of equals the one with more images; classes without images last."""
    return sorted(
        rows,
        key=lambda row: (row.accuracy is None, row.accuracy or 0.0, -row.support),
    )


def render(
    rows: Sequence[PerClassRow], title: str, limit: int | None = None, whole: str = ""
) -> "Table":
    """A Rich table of the `limit` worst classes, with a bar that shows the worst at a glance.

    Args:
        whole: where all rows are; with it, a line below says how many more there are
    """
    from rich import box
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

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
    for name in ("support", "correct", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("", max_width=BAR_WIDTH)
    for row in worst_first(rows)[:limit]:
        accuracy = row.accuracy
        shown = "n/a" if accuracy is None else f"{100 * accuracy:.1f} %"
        bar = Bar(1.0, 0.0, accuracy or 0.0, color=_colour(accuracy))
        table.add_row(Text(row.name), str(row.support), str(row.correct), shown, bar)
    return table


def _colour(accuracy: float | None) -> str:
    if accuracy is None:
        return "default"
    return "red" if accuracy < 0.7 else "yellow" if accuracy < 0.9 else "green"
