"""What a reader of images is: the function that `data.name` chooses, and what it gives.

    from pathlib import Path
    from clf.config import register
    from clf.data.reader import DataError, Row

    @register(name="mine", group="data")
    def read_mine(root: Path, *, fold: int = 0) -> dict[str, list[Row]]:
        return {"train": [Row(path_or_bytes, label), ...], "val": [...], "test": [...]}

`--data mine data.root=/my/images data.fold=1` reads with it, if its module is in a package of
`trusted_packages`.

Parameters: the first one gets `data.root` as a Path (null is allowed where it has a default). A
further one with the name of a setting of every reader, such as `split_seed`, gets that setting.
Keyword-only ones are settings of the reader's own.

Result: the rows of each split, "train", "val" and "test", or those of "all" where the toolkit is to
draw the splits; "val" and "test" may be left out. A reader that has something to say about the
images returns `Noted(rows, notes)`: a note is one line with a count and examples, with paths from
`data.root` on. Notes are shown where the run is started and in its first lines, and are kept in its
folder.

Faults: a `DataError` with all of them, each beginning with the key that it is about.

An image may also be a part of a file, such as a member of a tar file: `Span(path, start, size,
name)`.

A reader may write its images to disk first: see `clf.data.generated.writes_images`.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from clf.config import DataConfig
from clf.config.faults import printable

SPLITS = ("train", "val", "test")
EXPECTED = (
    'expected a dictionary from "train", "val" and "test", or from "all" alone, to lists of '
    "Row(path or bytes, label)"
)


class Span(NamedTuple):
    """An image file within another file, such as a tar file, of which it is read alone."""

    path: str  # of the file around it
    start: int  # of the image in it, in bytes
    size: int  # bytes
    name: str  # of the image in there

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"

    def read(self, last: int | None = None) -> bytes:
        """The content, or its last bytes. The file is opened for each call: threads share nothing,
        and thousands of shards need no handles that stay open.

        Raises:
            OSError: the file cannot be read, or ends before the image does
        """
        count = self.size if last is None else min(last, self.size)
        with open(self.path, "rb") as file:
            file.seek(self.start + self.size - count)
            data = file.read(count)
        if len(data) < count:
            raise OSError(f"{self.path} ends within {self.name}: it is truncated, or has changed")
        return data


Source = str | bytes | Span  # path of a file, content of an image file, or part of a file


class Row(NamedTuple):
    """One image with the name of its class."""

    image: Source
    label: str | int  # names are sorted as texts; if all labels are numbers, as numbers
    where: str = ""  # what to look at if the row is wrong: a file, a line of a list
    group: str = ""  # what `data.group_by=column:KEY` names: a person, a match, a camera

    @property
    def place(self) -> str:
        """`where`, or the path if it is empty."""
        if self.where or isinstance(self.image, bytes):
            return self.where or "an image in memory"
        return str(self.image)


Rows = dict[str, list[Row]]
Reader = Callable[..., Any]  # returns Rows or Noted; `checked` makes sure


class Noted(NamedTuple):
    """Rows, and what the user should know about them: each note is one line."""

    rows: Rows
    notes: list[str]


class DataError(ValueError):
    """Something about the user's images that the user can put right; each fault names it.

    Args:
        faults: one, or all of them
        rows: what could be read in spite of them, so that it is looked through as well
        of_training: further faults, which only a run that trains on the images cannot live with;
            `rows` are all that there are
    """

    def __init__(
        self,
        faults: str | Sequence[str],
        rows: Rows | None = None,
        of_training: Sequence[str] = (),
    ) -> None:
        listed = [faults] if isinstance(faults, str) else faults
        self.faults = [printable(one) for one in [*listed, *of_training]]
        self.of_training = [printable(one) for one in of_training]
        self.rows = rows or {}
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[Any, ...]:
        return DataError, (self.faults,)  # a million rows need not travel to another process


def arguments(reader: Reader, cfg: DataConfig) -> dict[str, Any]:
    """What a reader gets beside its folder: the settings that its parameters name."""
    parameters = list(inspect.signature(reader).parameters.values())[1:]
    return {
        one.name: getattr(cfg, one.name, one.default)
        for one in parameters
        if hasattr(cfg, one.name) or one.default is not one.empty
    }


def needs_root(reader: Reader) -> bool:
    """Whether the reader cannot do without `data.root`."""
    first = next(iter(inspect.signature(reader).parameters.values()))
    return first.default is first.empty


def checked(result: Any, name: str) -> Noted:
    """What a reader returned, if it is what a reader returns.

    Raises:
        DataError: it is something else; says what, and what was expected
    """
    said = f"data.name={name}: its reader returned"
    rows, notes = result if isinstance(result, Noted) else Noted(result, [])
    if not isinstance(rows, dict):
        raise DataError(f"{said} a {type(rows).__name__}; {EXPECTED}")
    if set(rows) != {"all"} and not {"train"} <= set(rows) <= set(SPLITS):
        raise DataError(f"{said} rows of {first_and_count(list(map(str, rows)), 5)}; {EXPECTED}")
    right_rows: Rows = {}
    for split, listed in rows.items():
        right_rows[split] = []
        for row in listed:
            if (right := _checked_row(row)) is None:
                raise DataError(
                    f"{said} {row!r:.120} as row {len(right_rows[split])} of {split!r}; "
                    f"{EXPECTED}, a label being a name or a whole number"
                )
            right_rows[split].append(right)
    return Noted(right_rows, [printable(note).replace("\n", " ") for note in notes])


def _checked_row(row: Any) -> Row | None:
    try:
        image, label, where, group = Row(*row)
        if not isinstance(image, Span):
            image = os.fspath(image)
    except TypeError:
        return None
    if isinstance(label, str):
        return Row(image, label, where, str(group)) if label else None
    if isinstance(label, bool) or not isinstance(label, Integral):
        return None
    return Row(image, int(label), where, str(group))


def first_and_count(items: Sequence[str], limit: int) -> str:
    """ "a, b, c and 7 more"."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
