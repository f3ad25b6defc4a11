"""Lists in Parquet, as pandas and Hugging Face's `datasets` write them: columns of paths or of
embedded images, and of labels.

The parts of a list, `train-00000-of-00003.parquet` and the others, are one. Needs the package
pyarrow, which is imported when a file is read.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clf.data.naming import split_named

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

ENDING = ".parquet"
# -00000-of-00003, also followed by the 16 digits of a hash; or a number alone, as in 0000.parquet
PART = re.compile(r"(?:^|[-_.])(\d+)(?:[-_]of[-_](\d+)(?:-[0-9a-f]{16})?)?$")
MOST_MIB = 4096  # of embedded images, which each process holds
ROWS = 256  # read at a time: images of all of them are in memory twice meanwhile
REMEDY = (
    "reading it needs the package pyarrow, which is not installed: pip install 'clf[parquet]', or "
    "pip install pyarrow"
)


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ENDING


def base_name(stem: str) -> str:
    """What the parts of one list have in common: "train" of train-00000-of-00003."""
    return PART.sub("", stem)


def parts_fault(paths: list[Path]) -> str | None:
    """What is wrong with Parquet files as the parts of one list; "" if nothing is, None if they are
    several lists."""
    bases = {(path.parent, base_name(path.stem)) for path in paths}
    folder_of_split = split_named(paths[0].parent.name) and not split_named(
        base_name(paths[0].stem)
    )
    if len({path.parent for path in paths}) > 1 or (len(bases) > 1 and not folder_of_split):
        return None
    found = [PART.search(path.stem) for path in paths]
    totals = sorted({int(part[2]) for part in found if part and part[2]})
    if not totals:
        return "" if len(paths) == 1 or folder_of_split or all(found) else None
    numbers = sorted(int(part[1]) if part else -1 for part in found)
    if len(totals) == 1 and numbers == list(range(totals[0])):
        return ""
    lacking = sorted(set(range(totals[-1])) - set(numbers))
    said = f"part {lacking[0]} is missing" if lacking else "some are there twice"
    count = " or ".join(map(str, totals))
    return (
        f"{paths[0]} is one of {count} parts, and {len(paths)} are there: {said}; put all parts "
        "there, each once, and take out files of other versions"
    )


def keys_of(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
        ValueError: the file cannot be read, or pyarrow is not installed
    """
    with _open(path) as file:
        return list(file.schema_arrow.names)


def features(path: Path) -> dict[str, Any]:
    """Column -> what Hugging Face's `datasets` says of it in the file; empty without its words."""
    with _open(path) as file:
        return _features(file)


def embedded_mib(path: Path, column: str) -> float:
    """MiB of the images that a column holds, by the file's footer; 0 for a column of paths."""
    with _open(path) as file:
        if _holds_text(file, column):
            return 0.0
        groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
        chunks = [group.column(n) for group in groups for n in range(group.num_columns)]
        return sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema in (column, f"{column}.bytes")
        ) / (1 << 20)


def records(
    path: Path, columns: tuple[str, str], group: str
) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """The number of each row, from 0 as pandas and `datasets` count, and its image (path or bytes),
    label and group. A label of Hugging Face's ClassLabel is the name of its class.

    Raises:
        ValueError: the file cannot be read
    """
    import pyarrow

    image, label = columns
    with _open(path) as file:
        names = _features(file).get(label, {}).get("names")
        there = file.schema_arrow.names
        wanted = [*dict.fromkeys((image, label, *([group] if group in there else [])))]
        number = 0
        try:
            for batch in file.iter_batches(batch_size=ROWS, columns=wanted):
                for record in batch.to_pylist():
                    yield number, _plain_record(record, image, label, names)
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(
                f"{path}: row {number} cannot be read ({_first_line(error)})"
            ) from None


def _plain_record(
    record: dict[str, Any], image: str, label: str, names: list[str] | None
) -> dict[str, Any] | ValueError:
    held = record[image]
    if isinstance(held, dict):  # Hugging Face's Image
        content = held.get("bytes")
        record[image] = held.get("path") if content is None else content
    if names is not None:
        number = record[label]
        if not isinstance(number, int) or not 0 <= number < len(names):
            return ValueError(
                f'"{label}" must be one of the {len(names)} classes that the file names, from 0 '
                f"on, got {number}"
            )
        record[label] = names[number]
    return record


def _open(path: Path) -> "ParquetFile":
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ValueError(f"{path}: {REMEDY}") from None
    try:
        file = ParquetFile(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({_first_line(error)})") from None
    except pyarrow.ArrowException as error:
        with path.open("rb") as content:
            pointer = content.read(30).startswith(b"version https://git-lfs")
        said = "it is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that"
        wrong = said if pointer else f"no Parquet file ({_first_line(error)}); write it again"
        raise ValueError(f"{path}: {wrong}") from None
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of one name: {', '.join(names)}")
    return file


def _features(file: "ParquetFile") -> dict[str, Any]:
    """By column; a ClassLabel has "names"."""
    try:
        said = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        listed = said["info"]["features"]
        return {key: one for key, one in listed.items() if isinstance(one, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # no words of `datasets`: the types of the columns say enough


def _holds_text(file: "ParquetFile", column: str) -> bool:
    import pyarrow.types as kinds

    kind = file.schema_arrow.field(column).type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
