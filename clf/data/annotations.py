"""Images with one file of labels a split: `train.jsonl` beside the images, or
`train/annotations.jsonl` with paths from `train/`.

A line: {"image": "crops/0001.jpg", "label": "23"}; labels are names or numbers.
"""

import json
import os
from pathlib import Path

from clf.data.rows import Row, first_and_count

EXPECTED = (
    "expected train.jsonl, val.jsonl and test.jsonl (or a folder each with annotations.jsonl), "
    'of lines {"image": "path from there", "label": "name"}'
)


def read_annotations(root: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """Rows by split, or under "all" for a single `annotations.jsonl`; and the lines' faults."""
    found: dict[str, list[Row]] = {}
    faults: list[str] = []
    listing = _Listing()
    for split, path in _files(root).items():
        rows, bad = _read_lines(path, listing)
        found[split] = rows
        if bad:
            lines = "lines" if len(bad) > 1 else "line"
            faults.append(f"data.root: {len(bad)} bad {lines}: {first_and_count(bad, 10)}")
        elif not rows:
            faults.append(f"data.root: {path} has no line; {EXPECTED}")
    if "train" not in found and "all" not in found:
        there = sorted(entry.name for entry in root.iterdir())
        faults.append(
            f"data.root: {root} has no train.jsonl but {first_and_count(there, 5)}; {EXPECTED}"
        )
        return {}, faults
    if not all(isinstance(row.label, int) for rows in found.values() for row in rows):
        found = {
            split: [row._replace(label=str(row.label)) for row in rows]
            for split, rows in found.items()
        }
    return found, faults


def _files(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split in ("train", "val", "test"):
        for path in (root / f"{split}.jsonl", root / split / "annotations.jsonl"):
            if path.is_file():
                found.setdefault(split, path)
    alone = root / "annotations.jsonl"
    return found or ({"all": alone} if alone.is_file() else {})


def _read_lines(path: Path, listing: "_Listing") -> tuple[list[Row], list[str]]:
    rows, bad = [], []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row, fault = _read_line(line, path.parent, where, listing)
        if row is not None:
            rows.append(row)
        else:
            bad.append(f"{where}: {fault}")
    return rows, bad


def _read_line(
    line: str, folder: Path, where: str, listing: "_Listing"
) -> tuple[Row | None, str | None]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return None, f"no JSON ({error.msg} at column {error.colno})"
    if not isinstance(record, dict):
        return None, f'expected {{"image": ..., "label": ...}}, got {line.strip()[:80]}'
    image, label = record.get("image"), record.get("label")
    if not isinstance(image, str) or not image:
        return None, '"image" must be the path of a file'
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        return None, f'"label" must be a name or a whole number, got {json.dumps(label)}'
    path = os.path.join(folder, image)
    if not listing.has(path):
        return None, f"no such image: {path}"
    return Row(path, label, where), None


class _Listing:
    """Which files there are, a folder read once: a network disk is slow to answer for each."""

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
