"""`metrics.csv`: every scalar of the run, whatever happens to W&B, the network or the process.

Lightning's CSVLogger deletes the file of an earlier start, and a resumed run must go on with it.
"""

import csv
import errno
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from clf.atomic import PatientWriter, write_text
from clf.tracking.epochs import CountsEpochsFromOne

KEYS = ["epoch", "step"]  # the first epoch is 1, the first step of the optimizer 0


class CsvLogger(CountsEpochsFromOne):
    """One row a step, in step order. A column appears with the first value of its name.

    A run that starts again with the file of an earlier start keeps the rows before the first step
    that it logs itself; the later ones are computed again. A row of that very step stays if it
    lacks the values that are logged now, as when a run goes on with the validation after a step.
    Each value is in the file when `log_metrics` returns, and a kill at any instant leaves whole
    rows. So does a full disk: what it does not take is written with a later row, or by the writer's
    `retry`.

    Args:
        path: the CSV file, new or from an earlier start
        writer: warns of a disk that takes nothing
    """

    def __init__(self, path: Path, writer: PatientWriter | None = None) -> None:
        super().__init__()
        self.path = path
        self._writer = writer or PatientWriter()
        self._rows = _read(path)
        self._columns = KEYS + [name for name in _names(self._rows) if name not in KEYS]
        self._has_logged = False
        # The end of the file, which the next write replaces: the number of its first row, where
        # that begins, and its bytes. None: the whole file is to be written.
        self._end: tuple[int, int, bytes] | None = None

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
        if not self._has_logged and step is not None:
            self._rows = [kept for kept in self._rows if _stays(kept, step, metrics)]
        self._has_logged = True
        last = self._rows[-1] if self._rows else {}
        if last and all(name not in last or last[name] == row[name] for name in row):
            last |= row
        else:
            self._rows.append(row)
        if new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._end = None
        self._writer.write(self.path, self._write, keep=True)

    def _write(self) -> None:
        """Bring the file up to date; OSError: it is as it was."""
        last = _lines(self._rows[-1:], self._columns).encode()
        if self._end is None or not _holds(self.path, self._end):
            header = _lines([dict(zip(self._columns, self._columns, strict=True))], self._columns)
            before = header + _lines(self._rows[:-1], self._columns)
            write_text(self.path, before + last.decode())
            at = len(before.encode())
        else:
            first, at, old = self._end
            before = _lines(self._rows[first:-1], self._columns)
            _replace_end(self.path, at, old, before.encode() + last)
            at += len(before.encode())
        self._end = (len(self._rows) - 1, at, last)


def _holds(path: Path, end: tuple[int, int, bytes]) -> bool:
    """Whether the file is still as long as it was left."""
    with suppress(FileNotFoundError):
        return path.stat().st_size == end[1] + len(end[2])
    return False


def _replace_end(path: Path, at: int, old: bytes, new: bytes) -> None:
    """Write `new` over `old`, which is no longer, from the byte `at` on: in one write, which no
    kill can cut. What a full disk cuts is undone.

    Raises:
        OSError: the file is as it was
    """
    descriptor = os.open(path, os.O_WRONLY)
    try:
        try:
            if os.pwrite(descriptor, new, at) < len(new):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            with suppress(OSError):  # a disk that is gone; the next start drops half a line
                os.pwrite(descriptor, old, at)
                os.ftruncate(descriptor, at + len(old))
            raise
    finally:
        os.close(descriptor)


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
