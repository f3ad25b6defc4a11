"""data=annotations: a list of images and labels for each split, `train.jsonl` beside the images, or
`train/annotations.jsonl` with paths that begin in `train/`.

A line: {"image": "crops/0001.jpg", "label": "23"}; labels are names or whole numbers.
"""

import json
import os
from pathlib import Path

from clf.config import register
from clf.data.folders import check_folder
from clf.data.reader import SPLITS, DataError, Row, Rows, first_and_count

EXPECTED = (
    "expected train.jsonl, val.jsonl and test.jsonl (or a folder each with annotations.jsonl), "
    'of lines {"image": "path from there", "label": "name"}'
)


@register(name="annotations", group="data")
def read_annotations(root: Path, group_by: str | None = None) -> Rows:
    """Rows by split, or under "all" for a single `annotations.jsonl`.

    Args:
        group_by: `column:KEY` reads the group of an image from that key of its line
    """
    check_folder(root, EXPECTED)
    rows: Rows = {}
    faults: list[str] = []
    listing = _Listing()
    column = (group_by or "").partition("column:")[2]
    for split, path in list_files(root).items():
        rows[split], bad = _read_lines(path, listing, column)
        if bad:
            lines = "lines" if len(bad) > 1 else "line"
            faults.append(f"data.root: {len(bad)} bad {lines}: {first_and_count(bad, 10)}")
        elif not rows[split]:
            faults.append(f"data.root: {path} has no line; {EXPECTED}")
    if "train" not in rows and "all" not in rows:
        inside = sorted(entry.name for entry in root.iterdir())
        missing = f"{root} has no train.jsonl but {first_and_count(inside, 5)}; {EXPECTED}"
        raise DataError([*faults, f"data.root: {missing}"])
    if faults:
        raise DataError(faults, rows)
    return rows


def list_files(root: Path) -> dict[str, Path]:
    """The list of each split in a folder, or that of "all"; empty where there is none."""
    found: dict[str, Path] = {}
    for split in SPLITS:
        for path in (root / f"{split}.jsonl", root / split / "annotations.jsonl"):
            if path.is_file():
                found.setdefault(split, path)
    alone = root / "annotations.jsonl"
    return found or ({"all": alone} if alone.is_file() else {})


def _read_lines(path: Path, listing: "_Listing", column: str) -> tuple[list[Row], list[str]]:
    rows, bad = [], []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            rows.append(_read_line(line, path.parent, where, listing, column))
        except ValueError as error:
            bad.append(f"{where}: {error}")
    return rows, bad


def _read_line(line: str, folder: Path, where: str, listing: "_Listing", column: str) -> Row:
    """The row of a line; ValueError says what is wrong with it."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(record, dict):
        raise ValueError(f'expected {{"image": ..., "label": ...}}, got {line.strip()[:80]}')
    image, label = record.get("image"), record.get("label")
    if not isinstance(image, str) or not image:
        raise ValueError('"image" must be the path of a file')
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise ValueError(f'"label" must be a name or a whole number, got {json.dumps(label)}')
    path = os.path.join(folder, image)
    if not listing.has(path):
        raise ValueError(f"no such image: {path}")
    group = record.get(column)
    return Row(path, label, where, "" if group is None else str(group))


class _Listing:
    """Which files exist. Each folder is read once, since a network disk is slow to answer a
    question about every single file."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(folder))
            except OSError:
                self._names[folder] = set()
        return name in self._names[folder]
