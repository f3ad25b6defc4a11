"""data=webdataset: tar files of samples, read where they are, without unpacking.

root/train-000000.tar, val-000000.tar ...   or   root/{train,val,test}/*.tar   or   root/*.tar, from
which splits are drawn. `clf.data.samples` has what a sample is.
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from clf.config import register
from clf.config.about import About
from clf.data import samples
from clf.data.annotations import WHOLE
from clf.data.folders import check_folder
from clf.data.lists import LABEL_COLUMNS
from clf.data.naming import SAID, is_system_folder, split_named
from clf.data.reader import DataError, Noted, Row, Rows, first_and_count
from clf.data.samples import Chosen, Contents

EXPECTED = (
    "expected shards train-000000.tar ... and val-000000.tar ..., or train/ and val/ with shards, "
    "or shards without the name of a split"
)
COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|lz4|Z))$", re.IGNORECASE)
NUMBER = re.compile(r"[\W_]*\d+([\W_]*of[\W_]*\d+)?$")  # at the end of a shard's name
THREADS = 16  # a network disk answers many questions at a time
SHOWN = 3  # examples in a message
REMEDIES = {
    samples.NO_IMAGE: f"expected one of the {SAID}, under the same key, as 0001.jpg beside "
    "0001.cls; add it or take the sample out",
    samples.SEVERAL: "set data.image_ending, such as data.image_ending=jpg, to the ending of the "
    "one that is meant",
    samples.NO_LABEL: "expected 0001.cls with a whole number, 0001.txt with a name, or 0001.json "
    f"with one of the keys {', '.join(LABEL_COLUMNS)}, beside 0001.jpg",
    samples.BAD_LABEL: "write these anew",
    samples.LINKS: "write the shard with files in their place (`tar -h --hard-dereference`)",
}


@register(name="webdataset", group="data")
def read_shards(
    root: Path,
    group_by: str | None = None,
    *,
    image_ending: Annotated[
        str | None, About("of the images where samples have several, such as jpg or seg.png")
    ] = None,
    label_column: Annotated[
        str | None,
        About("key of the label in each .json; null: .cls, else label, class ..., else .txt"),
    ] = None,
) -> Noted:
    """Rows by split, or under "all" where no shard has the name of a split.

    Args:
        group_by: `column:KEY` reads the group of an image from that key of its .json
    """
    if root.is_file():
        raise DataError(is_a_file(root))
    check_folder(root, EXPECTED)
    shards = _by_split(root)
    chosen = Chosen(image_ending, label_column, (group_by or "").partition("column:")[2])
    rows: Rows = {}
    whole = Contents()
    with ThreadPoolExecutor(THREADS) as pool:
        for split, paths in shards.items():
            part = Contents()
            names = [str(path.relative_to(root)) for path in paths]
            for each in pool.map(samples.read_shard, paths, names, [chosen] * len(paths)):
                part.add(each)
            rows[split] = part.rows
            whole.add(part)
    rows = _whole_numbers(rows, whole)
    faults, of_training = _faults(root, whole), _nothing_to_train_on(root, shards)
    if faults or of_training:
        raise DataError(faults, rows, of_training)
    return Noted(rows, _notes(root, shards, whole))


def is_a_file(root: Path) -> str:
    """The fault of `data.root` where it is one."""
    return (
        f"data.root: {root} is a file; data=webdataset reads all shards of a folder, so give the "
        "folder that they lie in"
    )


def holds_shards(root: Path, compressed: bool) -> bool:
    """Whether a folder looks like one of shards, by its first tar file.

    Args:
        compressed: count compressed ones, by their names alone; else they may be archives of what
            lies beside them
    """
    found = _tar_files(root, lambda name: split_named(name) is not None)
    plain = [path for path in found if path.suffix.lower() == ".tar"]
    return samples.begins_as_shard(plain[0]) if plain else compressed and bool(found)


def _tar_files(root: Path, enters: Callable[[str], bool]) -> list[Path]:
    """Those in a folder and in some of the folders in it, compressed ones too."""
    found = []
    for name in sorted(os.listdir(root)):
        inside = [name]
        if enters(name) and (root / name).is_dir():
            inside = [os.path.join(name, other) for other in sorted(os.listdir(root / name))]
        found += [
            root / one
            for one in inside
            if (one.lower().endswith(".tar") or COMPRESSED.search(one))
            and not os.path.basename(one).startswith(".")
            and (root / one).is_file()
        ]
    return found


def _by_split(root: Path) -> dict[str, list[Path]]:
    """Split -> its shards; or all of them under "all". DataError where the names do not say."""
    paths = _tar_files(root, lambda name: not is_system_folder(name))
    if compressed := [
        str(path.relative_to(root)) for path in paths if COMPRESSED.search(str(path))
    ]:
        raise DataError(
            f"data.root: {len(compressed)} shards in {root} are compressed, so that no image can "
            f"be read alone: {first_and_count(compressed, SHOWN)}; uncompress them (`gunzip`, "
            "`xz -d`, `zstd -d`). Images are compressed already, so they hardly grow"
        )
    if not paths:
        inside = first_and_count(sorted(os.listdir(root)), 5)
        raise DataError(f"data.root: {root} holds no .tar file but {inside}; {EXPECTED}")
    shards: dict[str, list[Path]] = {}
    for path in paths:
        shards.setdefault(_split_of(root, path), []).append(path)
    if "all" in shards and len(shards) > 1:
        without = [str(path.relative_to(root)) for path in shards["all"]]
        raise DataError(
            f"data.root: {root} has shards of splits ({', '.join(sorted(set(shards) - {'all'}))}) "
            f"and shards without the name of one: {first_and_count(without, SHOWN)}; rename or "
            "remove these"
        )
    return shards


def _nothing_to_train_on(root: Path, shards: dict[str, list[Path]]) -> list[str]:
    if {"all", "train"} & set(shards):
        return []
    return [
        f"data.root: {root} has shards of {' and '.join(shards)} and none to train on; add "
        "train-000000.tar, or rename these to numbers alone to have splits drawn"
    ]


def _split_of(root: Path, path: Path) -> str:
    """By any word of its name, as in imagenet1k-validation-00.tar, and by its folder."""
    stem = NUMBER.sub("", path.stem)
    words = [stem] if split_named(stem) else re.split(r"[\W_]+", stem)
    splits = {split for word in words if (split := split_named(word))}
    if path.parent != root:
        if (of_folder := split_named(path.parent.name)) is None:
            raise DataError(
                f"data.root: {path} lies in a folder without the name of a split; {EXPECTED}"
            )
        splits.add(of_folder)
    if len(splits) > 1:
        raise DataError(
            f"data.root: the name of {path} says {' and '.join(sorted(splits))}; rename it after "
            "one split"
        )
    return splits.pop() if splits else "all"


def _whole_numbers(rows: Rows, whole: Contents) -> Rows:
    """Labels of .txt as whole numbers where all are, so that they sort as such."""
    labels = {row.label for listed in rows.values() for row in listed}
    if set(whole.sources) != {"txt"} or not all(WHOLE.fullmatch(str(one)) for one in labels):
        return rows
    return {
        split: [Row(row.image, int(row.label), row.where, row.group) for row in listed]
        for split, listed in rows.items()
    }


def _faults(root: Path, whole: Contents) -> list[str]:
    faults = list(whole.faults)
    for what, names in whole.bad.items():
        faults.append(
            f"data.root: {root} has {len(names)} samples {what}: {first_and_count(names, SHOWN)}; "
            f"{REMEDIES[what]}"
        )
    if len(whole.sources) > 1:
        said = [f"{len(names)} in .{one} ({names[0]})" for one, names in whole.sources.items()]
        faults.append(
            f"data.root: the samples in {root} have their labels in different places: "
            f"{', '.join(said)}; all need the same"
        )
    if not faults and not whole.rows:
        held = first_and_count([f"{count} {kind}" for kind, count in _unread(whole)], 5)
        faults.append(
            f"data.root: the shards in {root} hold no sample ({held or 'they are empty'}); "
            "expected members 0001.jpg with 0001.cls, 0001.txt or 0001.json"
        )
    return faults


def _notes(root: Path, shards: dict[str, list[Path]], whole: Contents) -> list[str]:
    notes = []
    other = []
    for split, paths in shards.items():
        name = NUMBER.sub("", paths[0].stem) if paths[0].parent == root else paths[0].parent.name
        if split not in ("all", name):
            other.append(f"{len(paths)} such as {paths[0].relative_to(root)} as {split}")
    if other:
        notes.append(f"shards are read as splits: {', '.join(other)}")
    if unread := _unread(whole):
        said = first_and_count([f"{count} {kind}" for kind, count in unread], 5)
        (source,) = whole.sources
        notes.append(
            f"{whole.unread.total()} members of the shards are not read: {said}; labels are those "
            f"of .{source}"
        )
    if whole.empty:
        notes.append(
            f"{len(whole.empty)} shards hold no sample: {first_and_count(whole.empty, SHOWN)}"
        )
    return notes


def _unread(whole: Contents) -> list[tuple[str, int]]:
    return [
        (kind if kind != "." else "without ending", n) for kind, n in whole.unread.most_common()
    ]
