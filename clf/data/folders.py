"""data=imagefolder: a folder of images for each class.

root/{train,val,test}/<class>/*.jpg   or   root/<class>/*.jpg, from which splits are drawn
"""

import os
from collections.abc import Iterator
from pathlib import Path

from clf.config import register
from clf.data.reader import SPLITS, DataError, Row, Rows, first_and_count

MEANT_VAL = ("valid", "validation", "dev", "eval")  # what others call the folder `val`
# What torchvision's ImageFolder takes, so that both see the same files.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
EXPECTED = (
    "expected train/, val/ and test/ with a folder of images per class, or such folders alone"
)


@register(name="imagefolder", group="data")
def read_folders(root: Path) -> Rows:
    """Rows by split, or under "all" where the folders are the classes themselves."""
    check_folder(root, EXPECTED)
    faults: list[str] = []
    if not has_split_folders(root):
        folders = subfolders(root)
        if not folders:
            raise DataError(_no_class_folders(root))
        rows = {"all": _read_classes(root, folders, faults)}
    else:
        rows = _read_splits(root, faults)
    if faults:
        raise DataError(faults, rows)
    return rows


def check_folder(root: Path, expected: str) -> None:
    """DataError if a folder of data is not there, is empty or is a file."""
    if root.is_dir():
        if not any(root.iterdir()):
            raise DataError(f"data.root: {root} is empty; {expected}")
        return
    if root.exists():
        raise DataError(
            f"data.root: {root} is a file; give the folder of images, or data.stage=node for a tar "
            "file that each node unpacks"
        )
    nearest = next(parent for parent in root.absolute().parents if parent.is_dir())
    inside = sorted(entry.name for entry in nearest.iterdir() if not entry.name.startswith("."))
    raise DataError(
        f"data.root: there is no folder {root}; {nearest} exists and holds "
        f"{first_and_count(inside, 5) or 'nothing'}"
    )


def has_split_folders(root: Path) -> bool:
    """Whether `root/train` holds folders, so that it is a split and not a class."""
    return "train" in subfolders(root) and bool(subfolders(root / "train"))


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder that are not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def images_under(folder: Path) -> list[str]:
    """The image files under a folder that are not hidden, in the order of torchvision's
    ImageFolder."""
    found = [
        os.path.join(parent, name)
        for parent, names in sorted(_walk(folder))
        for name in sorted(names)
    ]
    return [path for path in found if path.lower().endswith(SUFFIXES)]


def holds_image(folder: Path) -> bool:
    """Whether there is an image anywhere under a folder; stops at the first."""
    return any(name.lower().endswith(SUFFIXES) for _, names in _walk(folder) for name in names)


def _read_splits(root: Path, faults: list[str]) -> Rows:
    rows: Rows = {}
    folders = subfolders(root)
    for name in MEANT_VAL:
        if name in folders and "val" not in folders:
            faults.append(f"data.root: {root / name} is not read; rename it to {root / 'val'}")
    for split in SPLITS:
        if split not in folders:
            continue
        classes = subfolders(root / split)
        rows[split] = _read_classes(root / split, classes, faults if split == "train" else [])
        if not classes:
            faults.append(_no_class_folders(root / split))
        elif not rows[split] and split != "train":
            faults.append(f"data.root: {root / split} holds no images; fill or remove it")
    return rows


def _read_classes(folder: Path, classes: list[str], faults: list[str]) -> list[Row]:
    rows: list[Row] = []
    for name in classes:
        of_class = [Row(path, name, path) for path in images_under(folder / name)]
        rows += of_class
        if not of_class:
            others = _other_files(folder / name)
            held = f"only {first_and_count(others, 3)}" if others else "nothing"
            faults.append(
                f"data.root: class folder {folder / name} holds {held}; "
                f"expected {' '.join(SUFFIXES)}. Fill or remove it"
            )
    return rows


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `folder` down with its files, without those that are hidden."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield parent, [name for name in names if not name.startswith(".")]


def _other_files(folder: Path) -> list[str]:
    names = [name for _, names in _walk(folder) for name in names]
    return sorted(name for name in names if not name.lower().endswith(SUFFIXES))


def _no_class_folders(folder: Path) -> str:
    count = len(images_under(folder))
    holds = f"{count} images" if count else first_and_count(_other_files(folder), 3)
    return (
        f"data.root: {folder} holds {holds or 'nothing'} and no class folders; put the images of "
        f"each class into a folder of its own, such as {folder / 'cat' / 'one.jpg'}"
    )
