"""data=imagefolder: a folder of images for each class.

root/{train,val,test}/<class>/*.jpg   or   root/<class>/*.jpg, from which splits are drawn
"""

from pathlib import Path

from clf.config import register
from clf.data.naming import (
    SAID,
    is_image,
    named_twice,
    nothing_to_train_on,
    split_folders,
    split_named,
)
from clf.data.reader import SPLITS, DataError, Noted, Row, Rows, first_and_count
from clf.data.walk import ClassFolders, subfolders

EXPECTED = (
    "expected train/, val/ and test/ with a folder of images per class, or such folders alone"
)


@register(name="imagefolder", group="data")
def read_folders(root: Path) -> Noted:
    """Rows by split, or under "all" where the folders are the classes themselves; and notes of what
    was passed over."""
    check_folder(root, EXPECTED)
    reading = ClassFolders(root)
    splits = splits_in(root)
    if faults := named_twice(root, splits):
        raise DataError(faults)
    if splits:
        names = {each: splits[each][0] for each in splits}
        rows, faults, empty, notes = _read_splits(reading, names)
    else:
        rows, faults, empty, notes = _read_classes(reading)
    of_training = nothing_to_train_on(root, splits) + empty
    if reading.faults or faults or of_training:
        raise DataError(reading.faults + faults, rows, of_training)
    return Noted(rows, notes + reading.notes())


def splits_in(root: Path) -> dict[str, list[str]]:
    """Split -> the folders with a name of it; empty where the folders are classes."""
    return split_folders(subfolders(root), lambda name: bool(subfolders(root / name)))


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


Read = tuple[Rows, list[str], list[str], list[str]]  # rows, faults, empty classes, notes


def _read_splits(reading: ClassFolders, names: dict[str, str]) -> Read:
    """What is in folders of splits, by split."""
    root = reading.root
    folders = {split: root / names[split] for split in SPLITS if split in names}
    images = reading.read(folders)
    reading.look_beside(root, names.values())
    faults: list[str] = []
    empty: list[str] = []
    for split, classes in images.items():
        if not classes:
            faults.append(_no_class_folders(reading, folders[split]))
        elif split == "train":
            empty += _empty_classes(reading, folders[split], classes)
        elif not any(classes.values()):
            faults.append(f"data.root: {folders[split]} holds no images; fill or remove it")
    other = [f"{names[split]} as {split}" for split in folders if names[split] != split]
    notes = [f"folders are read as splits: {', '.join(other)}"] if other else []
    return {split: _rows(classes) for split, classes in images.items()}, faults, empty, notes


def _read_classes(reading: ClassFolders) -> Read:
    """What is in class folders alone."""
    root = reading.root
    classes = reading.read({"all": root})["all"]
    if not classes:
        return {}, [_no_class_folders(reading, root)], [], []
    faults = _splits_inside(root, list(classes))
    named = [name for name in classes if split_named(name)]
    note = (
        f"class folders have names of splits: {', '.join(named)}; they are read as classes, since "
        "they hold no folders"
    )
    empty = _empty_classes(reading, root, classes)
    return {"all": _rows(classes)}, faults, empty, [note] if named else []


def _rows(classes: dict[str, list[str]]) -> list[Row]:
    return [Row(path, name, path) for name, paths in classes.items() for path in paths]


def _empty_classes(reading: ClassFolders, folder: Path, classes: dict[str, list[str]]) -> list[str]:
    faults = []
    for name in (name for name, paths in classes.items() if not paths):
        others = reading.others(folder / name)
        held = f"only {first_and_count(others, 3)}" if others else "nothing"
        faults.append(
            f"data.root: class folder {folder / name} holds {held}; expected "
            f"{SAID}. Fill or remove it"
        )
    return faults


def _splits_inside(root: Path, classes: list[str]) -> list[str]:
    """Faults where splits lie one level too low: all would be trained on, the test images too."""
    for name in classes:
        inside = {split_named(each): each for each in subfolders(root / name) if split_named(each)}
        if "train" in inside and len(inside) > 1:
            if len(classes) == 1:
                return [
                    f"data.root: the splits ({', '.join(inside.values())}) lie in {root / name}; "
                    f"set data.root={root / name}"
                ]
            return [
                f"data.root: {root / name} holds splits ({', '.join(inside.values())}) inside a "
                f"class; expected {root / 'train' / name} and {root / 'val' / name}"
            ]
    return []


def _no_class_folders(reading: ClassFolders, folder: Path) -> str:
    files = [name for name in reading.others(folder) if not name.startswith(".")]
    count = sum(is_image(str(folder / name)) for name in files)
    holds = f"{count} images" if count else first_and_count(files, 3)
    return (
        f"data.root: {folder} holds {holds or 'nothing'} and no class folders; put the images of "
        f"each class into a folder of its own, such as {folder / 'cat' / 'one.jpg'}"
    )
