"""`--data /my/images`: finds the settings that read a path by looking at its content."""

import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

from clf.data import annotations, folders, samples, shards
from clf.data.lists import is_list, list_files, not_read, split_of_list
from clf.data.naming import SUFFIXES, split_named
from clf.data.reader import DataError, first_and_count
from clf.data.tar import class_names, files_in, is_compressed
from clf.data.walk import holds_image, subfolders

A_SHARD = ". It is a WebDataset shard, which is given by the folder that it lies in"


def data_settings_of(path: Path) -> dict[str, Any]:
    """`data.name`, `data.root` and, for a tar file, `data.stage`.

    A folder is read by its lists (train.jsonl or annotations.jsonl), by its class folders, or by
    its WebDataset shards (train-000000.tar). A tar file alone is unpacked by each node
    (data.stage=node).

    Raises:
        DataError: there is nothing, none of these, or several
    """
    path = path.expanduser()
    if path.is_file():
        return {"name": _kind_of_tar(path), "root": str(path), "stage": "node"}
    return {"name": _kind_of_folder(path), "root": str(path)}


def _kind_of_folder(root: Path) -> str:
    folders.check_folder(root, f"{folders.EXPECTED}; or {annotations.EXPECTED}")
    named = [path for paths in list_files(root).values() for path in paths]
    splits = folders.splits_in(root)
    parents = [root / name for names in splits.values() for name in names] or [root]
    classes = {
        name: None
        for parent in parents
        for name in subfolders(parent)
        if holds_image(parent / name)
    }
    # A CSV without the columns of a list is none beside class folders; without them, its fault says
    # what it lacks. A labels.csv may be anything.
    alone = len([name for name in classes if not split_named(name)]) < 2
    files = [path for path in named if is_list(path) or (alone and path.stem != "labels")]
    lists = [str(path.relative_to(root)) for path in files]
    beside = [*lists, *classes]
    if shards.holds_shards(root, compressed=not beside):
        if beside:
            raise DataError(
                f"data.root: {root} has WebDataset shards and lists or folders of images "
                f"({first_and_count(beside, 3)}); say which of them count: data=webdataset, "
                f"data=annotations or data=imagefolder, with data.root={root}"
            )
        return "webdataset"
    return _kind(root, lists, [*classes, *(["train"] if splits and not classes else [])], "")


def _kind_of_tar(path: Path) -> str:
    if not tarfile.is_tarfile(path):
        raise DataError(
            f"data.root: {path} is neither a folder nor a tar file; give the folder that the "
            "images are in"
        )
    if is_compressed(path):
        raise DataError(
            f"data.root: {path} is compressed, so that all of it would have to be read to see what "
            f"is in it; say it: data=imagefolder or data=annotations, with data.root={path} "
            "data.stage=node"
        )
    with tarfile.open(path) as file:
        members = files_in(file)
    lists = [str(member) for member in members if _is_list(member)]
    images = [member for member in members if member.suffix.lower() in SUFFIXES]
    classes = class_names(images)[0]
    return _kind(path, lists, classes, " data.stage=node")


def _is_list(member: PurePosixPath) -> bool:
    """By its name alone: a labels.csv may be anything."""
    return member.stem != "labels" and split_of_list(member.parts) is not None


def _kind(root: Path, lists: list[str], classes: list[str], more: str) -> str:
    """The reader, from the lists and the folders of images that there are.

    A list names images in any folders, so a single folder, or those of splits, do not look like
    classes beside one.
    """
    like_classes = [name for name in classes if not split_named(name)]
    if lists and len(like_classes) > 1:
        raise DataError(
            f"data.root: {root} has lists ({first_and_count(lists, 3)}) and folders of images "
            f"({first_and_count(like_classes, 3)}), which may be classes; say which of them count: "
            f"data=annotations or data=imagefolder, with data.root={root}{more}"
        )
    if lists:
        return "annotations"
    if classes:
        return "imagefolder"
    raise DataError(
        f"data.root: {root} has neither folders of images nor lists of them"
        f"{not_read(root) if root.is_dir() else A_SHARD if samples.begins_as_shard(root) else ''}; "
        f"{folders.EXPECTED}; or {annotations.EXPECTED}"
    )
