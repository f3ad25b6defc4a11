"""Lists of images as files: which file is the list of which split, and its records.

JSONL, CSV and TSV, in UTF-8 or, with its mark, UTF-16. Other encodings have to be named, since a
letter that is guessed wrong may make two labels one. `clf.data.parquet` reads Parquet.
"""

import codecs
import csv
import io
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clf.data import parquet
from clf.data.naming import split_named

JSON_LINES = (".jsonl", ".ndjson")
SEPARATED = (".csv", ".tsv")
ALONE = ("annotations", "metadata", "labels")  # names of a list of all images, or of its folder's
IMAGE_COLUMNS = (
    *("image", "file_name", "path", "file", "file_path", "image_path", "img", "img_path"),
    *("image_file", "image_name"),
)
LABEL_COLUMNS = (
    *("label", "class", "category", "target", "class_name", "label_name", "category_name"),
    *("class_id", "label_id", "category_id"),
)
SEPARATORS = ",;\t|"
Record = dict[str, Any]


def split_of_list(parts: Sequence[str]) -> str | None:
    """The split of which a file is the list, by its path from the data set's folder; "all" for a
    list of all images, None for a file that is no list."""
    stem, ending = os.path.splitext(parts[-1])
    is_parquet = ending.lower() == parquet.ENDING
    if len(parts) > 2 or not (is_parquet or ending.lower() in JSON_LINES + SEPARATED):
        return None
    if is_parquet:
        stem = parquet.base_name(stem)
    alone = stem.casefold() in ALONE
    if len(parts) == 2 and (split := split_named(parts[0])):
        return split if alone or is_parquet else None
    if len(parts) == 2 and not is_parquet:
        return None
    return "all" if alone else split_named(re.sub(rf"[\W_]*({'|'.join(ALONE)}|list)$", "", stem))


def list_files(root: Path) -> dict[str, list[Path]]:
    """The lists of each split in a folder, or those of "all"; empty where there is none. Parquet
    files may also lie in data/, or in the only folder, as on Hugging Face's hub."""
    found: dict[str, list[Path]] = {}
    with os.scandir(root) as entries:
        is_folder = {entry.name: entry.is_dir() for entry in entries}
    folders = [name for name, yes in is_folder.items() if yes and not name.startswith(".")]
    for name in sorted(is_folder):
        inside: list[tuple[str, ...]] = [(name,)]
        if is_folder[name] and (split_named(name) or name == "data" or [name] == folders):
            inside = [(name, other) for other in sorted(os.listdir(root / name))]
        for parts in inside:  # a folder may hold a million images: no Path for each
            if (split := split_of_list(parts)) and root.joinpath(*parts).is_file():
                found.setdefault(split, []).append(root.joinpath(*parts))
    return found


def not_read(root: Path) -> str:
    """What a folder holds in forms that are not read, and what to do; "" where there is none."""
    kinds = {
        ".parquet": "rename them to train.parquet or train-00000-of-00003.parquet, and likewise "
        "for the other splits, or give the folder of one configuration as data.root",
        ".tar": "unpack these, or give one tar file of class folders with data.stage=node",
        ".tfrecord": "write its images to class folders",
        ".lmdb": "write its images to class folders",
        ".mdb": "write its images to class folders",
        ".h5": "write its images to class folders",
        ".npz": "write its images to class folders",
    }
    places = [root, *sorted(path for path in root.iterdir() if path.is_dir())[:100]]
    inside = [path for place in places for path in place.iterdir()]
    for ending, remedy in kinds.items():
        if names := sorted(path.name for path in inside if path.suffix.lower() == ending):
            return f". {ending} files, such as {names[0]}, are not read as they are: {remedy}"
    return ""


def is_list(path: Path) -> bool:
    """Whether a file that has the name of a list has the columns of one: a CSV beside class folders
    may hold something else."""
    if path.suffix.lower() in JSON_LINES:
        return True
    try:
        if parquet.is_parquet(path):
            parquet_columns(path, None, None)
            return True
        record = next(records(path, None), (0, {}))[1]
        if isinstance(record, dict):
            columns_of(list(record), path, None, None)
    except ValueError:
        return False
    return isinstance(record, dict)


def parquet_columns(path: Path, image: str | None, label: str | None) -> tuple[str, str]:
    """`columns_of` a Parquet file; of columns without a usual name, the only Image and the only
    ClassLabel of Hugging Face.

    Raises:
        ValueError: the file cannot be read, or none or several columns may be meant
    """
    keys, kinds = parquet.keys_of(path), parquet.features(path)

    def only(kind: str, usual: tuple[str, ...]) -> str | None:
        named = [key for key, one in kinds.items() if one.get("_type") == kind and key in keys]
        plain = {_plain(name) for name in usual}
        return named[0] if len(named) == 1 and not plain & set(map(_plain, keys)) else None

    image = image or only("Image", IMAGE_COLUMNS)
    return columns_of(keys, path, image, label or only("ClassLabel", LABEL_COLUMNS))


def size_fault(root: Path, tables: list[Path], image: str | None, label: str | None) -> str:
    """Why the images in Parquet files are too many to be held in memory, by the files' footers;
    "" if they are not."""
    mib, columns = 0.0, None
    for path in tables:
        try:
            chosen = parquet_columns(path, image, label)
            mib += parquet.embedded_mib(path, chosen[0])
            columns = columns or chosen
        except ValueError:
            continue  # said, with all else that is wrong with the file, when it is read
    if columns is None or mib <= parquet.MOST_MIB:
        return ""
    command = f"python -m clf.data.unpack {shlex.join([str(root.absolute()), 'FOLDER', *columns])}"
    return (
        f"the Parquet files in {root} hold {mib:.0f} MiB of images, which each process would keep "
        f"in memory; at most {parquet.MOST_MIB} MiB are read so. Unpack them, and give that folder "
        f"as data.root; in the repository: {command}"
    )


def columns_of(
    keys: list[str], path: Path, image: str | None, label: str | None
) -> tuple[str, str]:
    """The keys of the image and of its label; `image` and `label` are what the user chose.

    Raises:
        ValueError: none or several may be meant; names the keys that there are
    """
    return (
        _column(keys, path, image, IMAGE_COLUMNS, "image"),
        _column(keys, path, label, LABEL_COLUMNS, "label"),
    )


def records(path: Path, encoding: str | None) -> Iterator[tuple[int, Record | ValueError]]:
    """The number of each line and its record, or what is wrong with it.

    Raises:
        ValueError: the file cannot be read at all
    """
    text = _text(path, encoding)
    if path.suffix.lower() in JSON_LINES:
        return _json_lines(text)
    return _separated(text, path)


def _column(
    keys: list[str], path: Path, chosen: str | None, usual: tuple[str, ...], what: str
) -> str:
    named = _quoted(keys) or "nothing"
    remedy = f"set data.{what}_column=KEY to the one that holds it"
    if chosen is not None:
        if chosen not in keys:
            raise ValueError(f"{path} has no key {_quoted([chosen])} but {named}; {remedy}")
        return chosen
    plain = {_plain(name): None for name in usual}
    meant = [key for key in keys if _plain(key) in plain]
    exact = [key for key in meant if key == what]
    if len(exact or meant) == 1:
        return (exact or meant)[0]
    if meant:
        said = f"{path} has several keys that may be the {what}: {_quoted(meant)}"
        raise ValueError(f"{said}; {remedy}")
    raise ValueError(
        f'{path} has no key for the {what} but {named}; expected "{what}" or one of '
        f"{', '.join(usual[1:])}, or {remedy}"
    )


def _quoted(keys: list[str]) -> str:
    return ", ".join(json.dumps(key, ensure_ascii=False) for key in keys)


def _plain(key: str) -> str:
    return re.sub(r"[\W_]", "", key.casefold())


def _text(path: Path, encoding: str | None) -> str:
    content = path.read_bytes()
    if encoding is None:
        marks = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        mark = next((one for one in marks if content.startswith(one)), None)
        encoding = "utf-8-sig" if mark is None else "utf-32" if len(mark) == 4 else "utf-16"
        if mark is None and b"\0" in content[:1000]:
            raise ValueError(
                f"{path} holds zero bytes, as UTF-16 does; set data.encoding=utf-16-le, or convert "
                f"it: iconv -f utf-16le -t utf-8 {path.name} > utf8-{path.name}"
            )
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"data.encoding={encoding}: Python knows no such encoding") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        said = f"byte 0x{content[error.start]:02x} is no {encoding.removesuffix('-sig')}"
        raise ValueError(
            f"{path}:{line}: {said}; set data.encoding to what the file was written in, such as "
            "data.encoding=cp1252 for one of Windows, or convert it: "
            f"iconv -f cp1252 -t utf-8 {path.name} > utf8-{path.name}"
        ) from None


def _json_lines(text: str) -> Iterator[tuple[int, Record | ValueError]]:
    # Not splitlines(), which also ends a line at U+2028 and others that may stand in a text.
    for number, line in enumerate(re.split("\r\n|\n|\r", text), 1):
        if line.strip():
            yield number, _json_record(line)


def _json_record(line: str) -> Record | ValueError:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return ValueError(f"no JSON ({error.msg} at column {error.colno})")
    if not isinstance(record, dict):
        return ValueError(f'expected {{"image": ..., "label": ...}}, got {line.strip()[:80]}')
    return record


def _separated(text: str, path: Path) -> Iterator[tuple[int, Record | ValueError]]:
    first = text.partition("\n")[0]
    between = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=first.count)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=between, strict=True, skipinitialspace=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if len(set(header)) < len(header):
            raise ValueError(f"{path} has two columns of one name: {first.strip()[:200]}")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) == len(header):
                yield reader.line_num, dict(zip(header, map(str.strip, cells), strict=True))
            else:
                yield (
                    reader.line_num,
                    ValueError(f"{len(cells)} cells where the header has {len(header)}"),
                )
    except csv.Error as error:
        yield reader.line_num, ValueError(f"cannot be read ({error})")
