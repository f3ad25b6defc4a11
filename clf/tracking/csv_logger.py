"""`metrics.csv`: every scalar of the run, whatever happens to W&B, the network or the process.

Lightning's CSVLogger deletes the file of an earlier start, and a resumed run must go on with it.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from clf.run_folder import write_text
from clf.tracking.epochs import CountsEpochsFromOne

KEYS = ["epoch", "step"]  # the first epoch is 1, the first step of the optimizer 0


class CsvLogger(CountsEpochsFromOne):
    """One row a step, in step order. A column appears with the first value of its name.

    A run that starts again with the file of an earlier start keeps the rows before the first step
    that it logs itself; the later ones are computed again. A row of that very step stays if it
    lacks the values that are logged now, as when a run goes on with the validation after a step.
    Each value is in the file when `log_metrics` returns, and a kill at any instant leaves whole
    rows.

    Args:
        path: the CSV file, new or from an earlier start
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows = _read(path)
        self._columns = KEYS + [name for name in _names(self._rows) if name not in KEYS]
        self._last_row_at: int | None = None  # bytes into the file; None: nothing written yet

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add values to the last row. A value that differs from what the row holds, or another
        step than the row's, begins a new row."""
        row: dict[str, Any] = {**self.with_epoch_number(metrics), "step": step}
        first = self._last_row_at is None
        if first and step is not None:
            self._rows = [kept for kept in self._rows if _stays(kept, step, metrics)]
        last = self._rows[-1] if self._rows else {}
        merges = bool(last) and all(last.get(name, value) == value for name, value in row.items())
        if merges:
            last |= row
        else:
            self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        self._columns += new
        if first or new or not self.path.exists():
            self._write_all()
        else:
            self._write_last(merges)

    def _write_all(self) -> None:
        header = _lines([dict(zip(self._columns, self._columns, strict=True))], self._columns)
        before = header + _lines(self._rows[:-1], self._columns)
        write_text(self.path, before + _lines(self._rows[-1:], self._columns))
        self._last_row_at = len(before.encode())

    def _write_last(self, merged: bool) -> None:
        """One write, which no kill can cut. A merged row is longer than the one it replaces."""
        with self.path.open("r+b") as file:
            self._last_row_at = file.seek(self._last_row_at or 0) if merged else file.seek(0, 2)
            file.write(_lines(self._rows[-1:], self._columns).encode())


def _lines(rows: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a full disk or a power cut can cut the last line
    rows: list[dict[str, Any]] = []
    for cells in csv.DictReader(io.StringIO(whole, newline="")):
        row: dict[str, Any] = {name: value for name, value in cells.items() if value}
        row |= {name: int(float(row[name])) for name in KEYS if name in row}
        rows.append({"step": None, **row})
    return rows


def _stays(row: dict[str, Any], step: int, metrics: Mapping[str, Any]) -> bool:
    if row["step"] is None or row["step"] != step:
        return row["step"] is None or row["step"] < step
    return row.keys().isdisjoint(metrics.keys() - set(KEYS))


def _names(rows: list[dict[str, Any]]) -> dict[str, None]:
    return dict.fromkeys(name for row in rows for name in row)
