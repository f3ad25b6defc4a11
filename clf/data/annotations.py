"""data=annotations: a list of images and labels for each split, `train.jsonl` or `train.csv` beside
the images, or `train/annotations.jsonl` with paths that begin in `train/`.

A line of JSON is {"image": "crops/0001.jpg", "label": "23"}; labels are names or whole numbers. A
CSV or TSV has a header with such columns. `clf.data.lists` has the names that both may have. A
Parquet file has columns of these names; its images may be in it.
"""

import json
import os
import re
from pathlib import Path
from typing import Annotated, NamedTuple

from clf.config import register
from clf.config.about import About
from clf.data import lists, parquet
from clf.data.folders import check_folder
from clf.data.naming import split_named
from clf.data.reader import DataError, Noted, Row, Rows, first_and_count

EXPECTED = (
    "expected train.jsonl, val.jsonl and test.jsonl (or a folder each with annotations.jsonl), "
    'of lines {"image": "path from there", "label": "name"}, or such a train.csv or train.parquet'
)
WHOLE = re.compile(r"-?(0|[1-9]\d*)")
DECIMAL = re.compile(r"-?\d+\.\d*|-?\d*\.\d+|-?\d+(\.\d*)?e[+-]?\d+", re.IGNORECASE)
OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class Chosen(NamedTuple):
    """The user's settings of lists."""

    encoding: str | None = None
    image: str | None = None
    label: str | None = None
    group: str = ""  # the key of the image's group


@register(name="annotations", group="data")
def read_annotations(
    root: Path,
    group_by: str | None = None,
    *,
    encoding: Annotated[
        str | None, About("of the lists, such as cp1252; null: UTF-8, or UTF-16 with its mark")
    ] = None,
    image_column: Annotated[
        str | None, About("key or column of the image's path; null: image, file_name, path ...")
    ] = None,
    label_column: Annotated[
        str | None, About("key or column of the label; null: label, class, category ...")
    ] = None,
) -> Noted:
    """Rows by split, or under "all" for a single `annotations.jsonl`.

    Args:
        group_by: `column:KEY` reads the group of an image from that key of its line
    """
    check_folder(root, EXPECTED)
    group = (group_by or "").partition("column:")[2]
    reading = _Reading(root, Chosen(encoding, image_column, label_column, group))
    files = lists.list_files(root)
    alone = files.pop("all", []) if "train" in files else []
    tables = [path for paths in files.values() for path in paths if parquet.is_parquet(path)]
    if fault := lists.size_fault(root, tables, image_column, label_column):
        raise DataError(f"data.root: {fault}")
    rows = {split: reading.read(paths, split) for split, paths in files.items()}
    of_training = []
    if "train" not in rows and "all" not in rows:
        inside = sorted(entry.name for entry in root.iterdir())
        missing = f"{root} has no train.jsonl but {first_and_count(inside, 5)}; {EXPECTED}"
        of_training = [f"data.root: {missing}{lists.not_read(root)}"]
    rows = reading.whole_numbers(rows)
    if reading.faults or of_training:
        raise DataError(reading.faults, rows, of_training)
    notes = reading.notes()
    if encoding and len(tables) == sum(map(len, files.values())):
        notes.append(f"data.encoding={encoding} is not used: Parquet files say their own")
    if alone:
        notes.append(f"{alone[0].name} is not read, since there are lists of the splits")
    by_folder = _by_folder(root, rows)
    if by_folder != rows:
        notes.append("the list names images in folders of splits, and each is in that split")
    return Noted(by_folder, notes)


class _Reading:
    """Reads lists one after the other, and keeps what is wrong with them."""

    def __init__(self, root: Path, chosen: Chosen) -> None:
        self.root, self.chosen = root, chosen
        self.faults: list[str] = []
        self._listing = lists.Listing()
        self._places: list[str] = []  # where the paths of a list begin, if not beside it
        self._backslashes: list[str] = []
        self._decimals: dict[str, None] = {}
        self._texts = False  # whether a label of a JSON or Parquet list is a text
        self._embedded = [0, 0]  # images in memory, and their bytes

    def read(self, paths: list[Path], split: str) -> list[Row]:
        """The rows of a split's list; what is wrong goes to `faults`."""
        parts = paths
        fault = parquet.parts_fault(paths) if all(map(parquet.is_parquet, paths)) else None
        if fault is None and len(paths) > 1:
            names = " and ".join(str(one.relative_to(self.root)) for one in paths)
            fault, parts = (
                f"{self.root} has {len(paths)} lists of the {split} split, {names}; take out all "
                "but one",
                paths[:1],
            )
        if fault:
            self.faults.append(f"data.root: {fault}")
        rows: list[Row] = []
        bad: list[str] = []
        try:
            for path in parts:
                self._read_file(path, rows, bad)
        except ValueError as error:  # of the file as a whole
            self.faults.append(f"data.root: {error}")
            return rows
        if bad:
            kind = "row" if parquet.is_parquet(paths[0]) else "line"
            lines = f"{kind}s" if len(bad) > 1 else kind
            self.faults.append(f"data.root: {len(bad)} bad {lines}: {first_and_count(bad, 10)}")
        elif not rows:
            self.faults.append(f"data.root: {paths[0]} has no line; {EXPECTED}")
        return rows

    def _read_file(self, path: Path, rows: list[Row], bad: list[str]) -> None:
        """Append the rows of a file, and what is wrong with others to `bad`; ValueError if nothing
        can be read."""
        columns, base = None, None
        chosen = self.chosen.image, self.chosen.label
        if parquet.is_parquet(path):
            columns = lists.parquet_columns(path, *chosen)
            found = parquet.records(path, columns, self.chosen.group)
        else:
            found = lists.records(path, self.chosen.encoding)
        for number, record in found:
            where = f"{path}:{number}"
            if isinstance(record, dict) and base is None:
                columns = columns or lists.columns_of(list(record), path, *chosen)
                base = self._base(path, record.get(columns[0]))
            try:
                if isinstance(record, ValueError):
                    raise record
                assert columns is not None
                assert base is not None
                rows.append(self._row(record, columns, base, where))
            except ValueError as error:
                bad.append(f"{where}: {error}")

    def whole_numbers(self, rows: Rows) -> Rows:
        """Labels of CSV files as whole numbers where all are: so they sort, and 3.0 is 3."""
        labels = {row.label for listed in rows.values() for row in listed}
        texts = {label for label in labels if isinstance(label, str)}
        decimals = {label for label in texts if DECIMAL.fullmatch(label)}
        if self._texts or not texts or any(not WHOLE.fullmatch(one) for one in texts - decimals):
            return rows
        if odd := sorted(one for one in decimals if not float(one).is_integer()):
            self.faults.append(
                f"data.root: labels must be names or whole numbers, got {first_and_count(odd, 3)}"
            )
            return rows
        if decimals:
            self._decimals |= dict.fromkeys(sorted(decimals))
        number = {text: int(float(text)) if text in decimals else int(text) for text in texts}
        return {
            split: [
                row._replace(label=number[row.label]) if isinstance(row.label, str) else row
                for row in listed
            ]
            for split, listed in rows.items()
        }

    def notes(self) -> list[str]:
        notes = list(self._places)
        if self._backslashes:
            shown = first_and_count(self._backslashes, 3)
            notes.append(f"{len(self._backslashes)} paths are read with / for \\: {shown}")
        if self._decimals:
            shown = first_and_count(list(self._decimals), 3)
            notes.append(f"labels that are written as decimals are read as whole numbers: {shown}")
        if self._embedded[0]:
            count, size = self._embedded
            notes.append(
                f"{count} images are in Parquet files; each process holds their "
                f"{size / (1 << 20):.1f} MiB in memory"
            )
        return notes

    def _row(self, record: lists.Record, columns: tuple[str, str], base: str, where: str) -> Row:
        """The row of a line; ValueError says what is wrong with it."""
        key, label_key = columns
        image, group = record.get(key), record.get(self.chosen.group)
        group = "" if group is None else str(group)
        if not isinstance(image, str | bytes) or image == "":
            shown = json.dumps(image, default=repr)
            raise ValueError(f'"{key}" must be the path of a file, got {shown:.80}')
        label = self._label(record.get(label_key), label_key)
        ending = Path(where.rpartition(":")[0]).suffix.lower()
        if isinstance(label, str) and ending not in lists.SEPARATED:
            self._texts = True
        if isinstance(image, bytes):
            self._embedded = [self._embedded[0] + 1, self._embedded[1] + len(image)]
            return Row(image, label, where, group)
        path = os.path.join(base, image)
        if not self._listing.has(path):
            path = self._other_path(path, base, image)
        return Row(path, label, where, group)

    def _label(self, label: object, key: str) -> str | int:
        if isinstance(label, float) and label.is_integer():
            self._decimals[json.dumps(label)] = None
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            shown = json.dumps(label, default=repr)
            raise ValueError(f'"{key}" must be a name or a whole number, got {shown:.80}')
        return label

    def _other_path(self, path: str, base: str, image: str) -> str:
        """A path as Windows writes it, if there is an image; ValueError if not."""
        turned = os.path.join(base, image.replace("\\", "/"))
        if "\\" in image and self._listing.has(turned):
            self._backslashes.append(image)
            return turned
        if OF_WINDOWS.match(image):
            raise ValueError(
                f"no such image here: {image}, a path of a Windows machine; paths begin in {base}"
            )
        raise ValueError(f"no such image: {path}")

    def _base(self, path: Path, image: object) -> str:
        """The folder in which the paths of a list begin: its own, or the one of its split's images
        where the first image is there instead."""
        own = str(path.parent)
        if not isinstance(image, str) or os.path.isabs(image):
            return own
        wanted = split_named(path.stem)
        beside = sorted(entry.name for entry in path.parent.iterdir() if entry.is_dir())
        folders = [name for name in beside if wanted and split_named(name) == wanted]
        folders += [name for name in beside if name.casefold() in ("images", "imgs", "img")]
        image = image.replace("\\", "/")
        for base in (own, *(os.path.join(own, name) for name in folders), str(self.root)):
            if self._listing.has(os.path.join(base, image)):
                if base != own:
                    place, name = os.path.relpath(base, self.root), path.relative_to(self.root)
                    self._places.append(f"the paths in {name} begin in {place}")
                return base
        return own


def _by_folder(root: Path, rows: Rows) -> Rows:
    """A list of all images that lie in folders of splits, as Hugging Face's metadata.jsonl has
    them: split by these. Drawn splits would train on the images of the test folder."""
    parts: Rows = {}
    for row in rows.get("all", []):
        if not isinstance(row.image, str):
            return rows
        first = os.path.relpath(row.image, root).split(os.sep)[0]
        if (split := split_named(first)) is None:
            return rows
        parts.setdefault(split, []).append(row)
    return parts if "train" in parts else rows
