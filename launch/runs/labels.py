"""The labels that a network gives to images, as files: path, label, probability and the K most
probable classes, a row an image."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from clf.atomic import write_file
from clf.config.faults import printable

if TYPE_CHECKING:
    from clf.scoring import Labelled

ENDINGS = (".csv", ".jsonl", ".parquet")


def listed(words: Iterable[str], standard_input: BinaryIO) -> Iterator[str]:
    """The paths that were typed; `-` stands for those on standard input, one a line, or with a
    zero byte behind each, as `find -print0` writes them."""
    for word in words:
        if word != "-":
            yield word
            continue
        content = standard_input.read()
        lines = content.split(b"\0") if b"\0" in content else content.splitlines()
        yield from (os.fsdecode(line) for line in lines if line.strip())


def out_fault(path: Path) -> str | None:
    """Why the file cannot be written; None if it can, as far as is known before."""
    if path.suffix not in ENDINGS:
        return f"--out {path}: expected a file that ends in {', '.join(ENDINGS[:-1])} or .parquet"
    if path.is_dir():
        return f"--out {path}: this is a folder; name a file in it"
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        return (
            f"--out {path}: writing it needs the package pyarrow, which is not installed: "
            "pip install 'clf[parquet]'; or write .csv or .jsonl"
        )
    return None


def write_labels(labelled: "Labelled", path: Path) -> None:
    """Write a file whole or not at all; numbers with as many digits as float32 has."""
    write = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}[path.suffix]
    write_file(path, lambda temporary: write(labelled, temporary))


def _rows(labelled: "Labelled") -> Iterator[tuple[str, list[str], list[float]]]:
    """Path, classes and probabilities of each image."""
    pairs = zip(labelled.images, labelled.top_NK, labelled.probabilities_NK, strict=True)
    for image, top_K, probabilities_K in pairs:
        yield image, [labelled.classes[c] for c in top_K], probabilities_K.tolist()


def _csv(labelled: "Labelled", path: Path) -> None:
    places = range(2, labelled.top_NK.shape[1] + 1)
    more = [name for place in places for name in (f"label_{place}", f"probability_{place}")]
    # The bytes of names that are no UTF-8 stay as they are.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "probability", *more])
        for image, names, values in _rows(labelled):
            pairs = zip(names, values, strict=True)
            cells = [cell for name, value in pairs for cell in (name, f"{value:.9g}")]
            writer.writerow([image, *cells])


def _json_lines(labelled: "Labelled", path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for image, names, values in _rows(labelled):
            top = [
                {"label": name, "probability": float(f"{value:.9g}")}
                for name, value in zip(names, values, strict=True)
            ]
            # In ASCII, in which json gives back the bytes of names that are no UTF-8 as well.
            file.write(json.dumps({"path": image, **top[0], "top": top}) + "\n")


def _parquet(labelled: "Labelled", path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, list[Any]] = {"path": [], "label": [], "probability": [], "top": []}
    for image, names, values in _rows(labelled):
        names = [printable(name) for name in names]  # a text of Parquet is UTF-8
        columns["path"].append(printable(image))
        columns["label"].append(names[0])
        columns["probability"].append(values[0])
        pairs = zip(names, values, strict=True)
        columns["top"].append([{"label": name, "probability": value} for name, value in pairs])
    number, text = pyarrow.float32(), pyarrow.string()
    pair = pyarrow.struct([("label", text), ("probability", number)])
    kinds = {"path": text, "label": text, "probability": number, "top": pyarrow.list_(pair)}
    table = pyarrow.table(
        {name: pyarrow.array(cells, kinds[name]) for name, cells in columns.items()}
    )
    pyarrow.parquet.write_table(table, path)
