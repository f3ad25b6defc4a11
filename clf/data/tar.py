"""Images in a tar file, which each node unpacks to its own disk (data.stage=node)."""

import os
import tarfile
from pathlib import Path, PurePosixPath

from clf.data.naming import is_system_folder, split_faults, split_folders
from clf.data.reader import first_and_count


def tar_classes(path: Path, has_class_folders: bool) -> tuple[list[str] | None, list[str]]:
    """Class names and faults, without unpacking. The names are None where they cannot be known
    so: without class folders, and in a compressed file, which would have to be read to its end."""
    try:
        with tarfile.open(path) as file:
            if file.next() is None:
                return None, [f"data.root: {path} is an empty tar file"]
            if is_compressed(path) or not has_class_folders:
                return None, []
            members = files_in(file)
    except (OSError, tarfile.TarError) as error:
        return None, [
            f"data.root: {path} cannot be read as a tar file ({error}); make it with "
            f"`tar -cf {path.name} -C FOLDER .`"
        ]
    return _classes(path, members)


def top_folder(folder: Path) -> Path:
    """The data set in an unpacked folder: the only folder in it, if that one holds folders too, as
    after `tar -cf images.tar images`."""
    inside = sorted(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir() and any(map(os.path.isdir, inside[0].iterdir())):
        return inside[0]
    return folder


def files_in(file: tarfile.TarFile) -> list[PurePosixPath]:
    """The paths of its files from the data set's own folder: without the one folder that holds all
    the others, as after `tar -cf images.tar images`."""
    parts = [PurePosixPath(member.name).parts for member in file if member.isfile()]
    parts = [part for part in parts if not any(map(is_system_folder, part))]
    if len({part[0] for part in parts}) == 1 and any(len(part) > 2 for part in parts):
        parts = [part[1:] for part in parts]
    return [PurePosixPath(*part) for part in parts]


def _classes(path: Path, members: list[PurePosixPath]) -> tuple[list[str] | None, list[str]]:
    names, splits = class_names(members)
    if faults := split_faults(path, splits):
        return None, faults
    if len(names) < 2:
        return None, [
            f"data.root: {path} holds {first_and_count(names, 5) or 'no folder of a class'}; "
            "expected train/, val/ and test/ with a folder of images per class, or such folders "
            "alone"
        ]
    return names, []


def class_names(members: list[PurePosixPath]) -> tuple[list[str], dict[str, list[str]]]:
    """The classes of the training images, and the folders of each split; see `split_folders`."""
    parts = [member.parts for member in members]
    deep = {part[0] for part in parts if len(part) > 2}
    folders = dict.fromkeys(part[0] for part in parts if len(part) > 1)
    splits = split_folders(folders, deep.__contains__)
    if splits:
        parts = [part[1:] for part in parts if part[0] in splits.get("train", [])]
    return sorted({part[0] for part in parts if len(part) > 1}), splits


def is_compressed(path: Path) -> bool:
    """Whether a tar file is compressed, by the mark that a plain one has in its first header."""
    with path.open("rb") as file:
        return file.read(262)[257:] != b"ustar"
