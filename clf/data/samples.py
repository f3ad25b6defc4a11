"""The samples of one WebDataset shard, from the headers of its tar file.

A sample is all members of one key: their path up to the first dot of the file's name. `0001.jpg`
goes with `0001.cls`. The images stay where they are; what is small, the labels, is read.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from clf.data.annotations import WHOLE
from clf.data.lists import LABEL_COLUMNS, column
from clf.data.naming import SUFFIXES, is_image, is_system_folder, suffix
from clf.data.reader import Row, Span

LABELS = ("cls", "json", "txt")  # endings of labels, the one that is taken first
BEHIND = 2**20  # bytes behind the mark of a tar file's end that are looked at

NO_IMAGE, SEVERAL, LINKS = "without an image", "with several images", "that are links"
NO_LABEL, BAD_LABEL = "without a label", "with a label that cannot be read"


class Chosen(NamedTuple):
    """The user's settings of shards."""

    image: str | None = None  # ending of the images
    label: str | None = None  # key of the label in a .json
    group: str = ""  # key of the image's group in a .json


@dataclass
class Contents:
    """What one shard holds, or several."""

    rows: list[Row] = field(default_factory=list)
    bad: dict[str, list[str]] = field(default_factory=dict)  # what is wrong -> the samples
    sources: dict[str, list[str]] = field(default_factory=dict)  # ending of labels -> the samples
    unread: Counter[str] = field(default_factory=Counter)  # members that are not read, by ending
    empty: list[str] = field(default_factory=list)  # shards without a sample
    faults: list[str] = field(default_factory=list)  # of tar files

    def add(self, other: "Contents") -> None:
        self.rows += other.rows
        for mine, others in ((self.bad, other.bad), (self.sources, other.sources)):
            for key, names in others.items():
                mine.setdefault(key, []).extend(names)
        self.unread += other.unread
        self.empty += other.empty
        self.faults += other.faults


@dataclass
class _Sample:
    images: dict[str, list[Span]] = field(default_factory=dict)  # by ending
    texts: dict[str, bytes] = field(default_factory=dict)  # by ending of LABELS


def read_shard(path: Path, name: str, chosen: Chosen) -> Contents:
    """The rows of a shard, and what is wrong with it or its samples.

    Args:
        name: of the shard in messages
    """
    contents = Contents()
    try:
        with path.open("rb") as file, opened(file) as tar:
            samples = _samples(tar, file, path, name, contents)
            contents.faults += end_faults(tar, file, path)
    except (OSError, tarfile.TarError) as error:
        contents.faults.append(f"data.root: {path} {_broken(path, error)}")
        return contents
    for key, sample in samples.items():
        _add(contents, f"{name}/{key}", sample, chosen)
    if not contents.rows and not contents.bad:
        contents.empty.append(name)
    return contents


def begins_as_shard(path: Path, members: int = 50) -> bool:
    """Whether the first members of a tar file have an image with a label beside it."""
    images, labels = set[str](), set[str]()
    try:
        with path.open("rb") as file, opened(file) as tar:
            for _, member in zip(range(members), tar, strict=False):
                key, ending = key_and_ending(member.name)
                if ending in LABELS:
                    labels.add(key)
                elif f".{ending}".endswith(SUFFIXES):
                    images.add(key)
    except (OSError, tarfile.TarError):
        return False
    return bool(images & labels)


def key_and_ending(name: str) -> tuple[str, str]:
    """The key of a member and its ending in small letters, without the first dot; empty ones for
    what a system or the writer of the shard keeps beside the samples."""
    *folders, base = name.removeprefix("./").split("/")
    stem, _, ending = base.partition(".")
    if not stem or stem.startswith("__") or any(map(is_system_folder, folders)):
        return "", ""
    return "/".join([*folders, stem]), ending.lower()


def opened(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")


def _samples(
    tar: tarfile.TarFile, file: BinaryIO, path: Path, name: str, contents: Contents
) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    for member in tar:
        if member.isdir():
            continue
        key, ending = key_and_ending(member.name)
        of_image = suffix(f"x.{ending}") in SUFFIXES and is_image(f"x.{ending}")
        if not key or not (of_image or ending in LABELS):
            contents.unread[f".{ending}" if key else "hidden"] += 1
        elif not member.isreg() or member.issparse():
            contents.bad.setdefault(LINKS, []).append(f"{name}/{member.name}")
        elif of_image:
            inside = member.name.removeprefix("./")
            span = Span(str(path), member.offset_data, member.size, inside)
            samples.setdefault(key, _Sample()).images.setdefault(ending, []).append(span)
        else:
            file.seek(member.offset_data)
            samples.setdefault(key, _Sample()).texts[ending] = file.read(member.size)
    return samples


def end_faults(tar: tarfile.TarFile, file: BinaryIO, path: Path) -> Iterator[str]:
    """tarfile ends without a word at a header that it cannot read, and at the end of the first of
    two tar files in one."""
    file.seek(tar.offset)
    rest = file.read(BEHIND)
    if len(rest) < 512:
        yield f"data.root: {path} ends without the mark of a tar file's end; copy or write it anew"
    elif any(rest[:512]):
        yield f"data.root: {path} is damaged at byte {tar.offset}; copy or write it anew"
    elif any(rest):
        yield (
            f"data.root: {path} holds more behind its end, as after `cat`; join tar files with "
            "`tar --concatenate`, or give them one by one"
        )


def _broken(path: Path, error: Exception) -> str:
    if not path.is_file() or isinstance(error, OSError):
        return f"cannot be read ({error})"
    if "unexpected end" in str(error):
        return f"is cut off after {path.stat().st_size} bytes; copy or write it anew"
    return f"cannot be read as an uncompressed tar file ({error}); write it anew with `tar -cf`"


def _add(contents: Contents, name: str, sample: _Sample, chosen: Chosen) -> None:
    """The row of a sample, or what is wrong with it."""
    endings = [chosen.image.lower().lstrip(".")] if chosen.image else list(sample.images)
    for other in sample.images.keys() - set(endings):
        contents.unread[f".{other}"] += len(sample.images[other])
    images = [span for ending in endings for span in sample.images.get(ending, [])]
    if len(images) != 1:
        said = ", ".join(span.name.rpartition("/")[2] for span in images)
        what = SEVERAL if images else NO_IMAGE
        contents.bad.setdefault(what, []).append(f"{name} ({said})" if said else name)
        return
    try:
        source, label, group = _label(sample.texts, chosen)
    except ValueError as error:
        contents.bad.setdefault(BAD_LABEL, []).append(f"{name}: {error}")
        return
    if not source:
        contents.bad.setdefault(NO_LABEL, []).append(name)
        return
    for other in sample.texts.keys() - {source}:
        contents.unread[f".{other}"] += 1
    contents.sources.setdefault(source, []).append(name)
    contents.rows.append(Row(images[0], label, "", group))


def _label(texts: dict[str, bytes], chosen: Chosen) -> tuple[str, str | int, str]:
    """Ending of the label, label and group; an empty ending where there is none. ValueError says
    what is wrong with it."""
    record: dict[str, Any] | None = None
    if "json" in texts and (chosen.label or chosen.group or "cls" not in texts):
        record = _record(texts["json"])
    group = (record or {}).get(chosen.group)
    group = "" if group is None else str(group)
    if "cls" in texts and not chosen.label:
        return "cls", _number(texts["cls"]), group
    if record is not None:
        try:
            return "json", _value(record, chosen), group
        except ValueError:
            if chosen.label or "txt" not in texts:
                raise
    if "txt" in texts and not chosen.label:
        return "txt", _name(texts["txt"]), group
    return "", "", group


def _record(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError as error:
        raise ValueError(f".json holds no JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError('.json must hold {"label": ...}')
    return record


def _value(record: dict[str, Any], chosen: Chosen) -> str | int:
    key = column(list(record), ".json", chosen.label, LABEL_COLUMNS, "label")
    label = record[key]
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        shown = json.dumps(label)[:80]
        raise ValueError(f'"{key}" must be a name or a whole number, got {shown}')
    return label


def _number(data: bytes) -> int:
    text = data.decode("utf-8", "replace").strip()
    if not WHOLE.fullmatch(text):
        raise ValueError(f".cls must be a whole number as text, got {text[:40]!r}")
    return int(text)


def _name(data: bytes) -> str:
    try:
        name = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError(".txt is no UTF-8") from None
    if not name or "\n" in name:
        raise ValueError(f".txt must be the name of a class, got {name[:40]!r}")
    return name
