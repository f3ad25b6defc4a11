"""From a data config to three lists of image files with labels: `load_splits`, and `data_faults`
for a check before anything runs. Imports no torch.

    root/{train,val,test}/<class>/*.jpg   or   root/<class>/*.jpg      data=imagefolder
    root/{train,val,test}.jsonl           or   root/annotations.jsonl  data=annotations
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clf.config import DataConfig
from clf.data import generated
from clf.data.annotations import read_annotations
from clf.data.rows import DataError, Row, first_and_count
from clf.data.tar import tar_classes

__all__ = ["DataError", "ImageSplits", "Split", "data_faults", "load_splits"]

SPLITS = ("train", "val", "test")
MEANT_VAL = ("valid", "validation", "dev", "eval")  # what others call the folder `val`
# What torchvision's ImageFolder takes, so that both see the same files.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
EXPECTED = (
    "expected train/, val/ and test/ with a folder of images per class, or such folders alone"
)


@dataclass(frozen=True)
class Split:
    """N image files; `labels` [N] int64 are positions in `ImageSplits.classes`."""

    paths: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ImageSplits:
    """What there is to train, validate and test on. `test` may be empty."""

    classes: list[str]  # in label order
    train: Split
    val: Split
    test: Split

    @property
    def class_to_idx(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.classes)}


def load_splits(cfg: DataConfig) -> ImageSplits:
    """The files and labels of every split; digits and jersey are put on disk first if absent.

    Images are not opened. Class order is torchvision ImageFolder's: sorted by name.

    Raises:
        DataError: all that is wrong with the folder or the annotations, not the first fault only
    """
    if cfg.name in generated.DATASETS:
        generated.ensure(cfg)
    splits, faults = _read(cfg)
    if splits is None or faults:
        raise DataError("\n".join(faults))
    return splits


def data_faults(cfg: DataConfig) -> tuple[list[str] | None, list[str]]:
    """Class names (None if they cannot be told) and faults, without making or opening an image.

    Each fault begins with the key that it is about.
    """
    if cfg.name in generated.DATASETS and not generated.folder(cfg).exists():
        dataset = generated.DATASETS[cfg.name]
        faults = [*generated.missing(cfg), *_batch_fault(cfg, dataset.train_size(cfg))]
        return sorted(dataset.CLASSES), faults
    if cfg.stage == "node" and cfg.root is not None and Path(cfg.root).expanduser().is_file():
        return tar_classes(Path(cfg.root).expanduser(), cfg.name)
    splits, faults = _read(cfg)
    return (splits.classes if splits else None), faults


def _read(cfg: DataConfig) -> tuple[ImageSplits | None, list[str]]:
    """The index as far as it can be made, and all faults."""
    if cfg.name in generated.DATASETS:
        root = generated.folder(cfg)
        faults = generated.faults(cfg)
    elif cfg.root is None:
        return None, [f"data.root: null, but data={cfg.name} needs it; set data.root=FOLDER"]
    else:
        root = Path(cfg.root).expanduser()
        faults = list(_folder_faults(root))
    if faults:
        return None, faults
    read = read_annotations if cfg.name == "annotations" else _read_folders
    rows_by_split, faults = read(root)
    if not any(rows_by_split.values()):
        return None, faults
    splits = _label(cfg, rows_by_split)
    faults += _index_faults(root, splits, rows_by_split)
    faults += _batch_fault(cfg, len(splits.train))
    return splits, faults


def _folder_faults(root: Path) -> Iterator[str]:
    if root.is_dir():
        if not any(root.iterdir()):
            yield f"data.root: {root} is empty; {EXPECTED}"
        return
    if root.exists():
        yield (
            f"data.root: {root} is a file; give the folder of images, or data.stage=node for a tar "
            "file that each node unpacks"
        )
        return
    nearest = next(parent for parent in root.absolute().parents if parent.is_dir())
    inside = sorted(entry.name for entry in nearest.iterdir() if not entry.name.startswith("."))
    yield (
        f"data.root: there is no folder {root}; {nearest} exists and holds "
        f"{first_and_count(inside, 5) or 'nothing'}"
    )


def _read_folders(root: Path) -> tuple[dict[str, list[Row]], list[str]]:
    """Rows by split, or under "all" where the folders are the classes themselves."""
    faults: list[str] = []
    folders = _subfolders(str(root))
    if "train" not in folders or not _subfolders(str(root / "train")):
        if not folders:
            return {}, [_no_class_folders(root)]
        return {"all": _read_classes(root, folders, faults)}, faults
    for name in MEANT_VAL:
        if name in folders and "val" not in folders:
            faults.append(f"data.root: {root / name} is not read; rename it to {root / 'val'}")
    found: dict[str, list[Row]] = {}
    for split in SPLITS:
        if split in folders:
            classes = _subfolders(str(root / split))
            found[split] = _read_classes(root / split, classes, faults if split == "train" else [])
            if classes and not found[split] and split != "train":
                faults.append(f"data.root: {root / split} holds no images; fill or remove it")
            elif not classes:
                faults.append(_no_class_folders(root / split))
    return found, faults


def _read_classes(folder: Path, classes: list[str], faults: list[str]) -> list[Row]:
    rows: list[Row] = []
    for name in classes:
        files, others = _images(str(folder / name))
        rows += [Row(path, name, path) for path in files]
        if not files:
            instead = f"only {first_and_count(sorted(others), 3)}" if others else "no file"
            faults.append(
                f"data.root: class folder {folder / name} holds no image but {instead}; "
                f"expected {' '.join(SUFFIXES)}. Fill or remove it"
            )
    return rows


def _images(folder: str) -> tuple[list[str], list[str]]:
    """Image files under a folder in ImageFolder's order, and the names of other files."""
    files, others = [], []
    for parent, folders, names in sorted(os.walk(folder, followlinks=True)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(name for name in names if not name.startswith(".")):
            if name.lower().endswith(SUFFIXES):
                files.append(os.path.join(parent, name))
            else:
                others.append(name)
    return files, others


def _subfolders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _no_class_folders(folder: Path) -> str:
    files, others = _images(str(folder))
    holds = f"{len(files)} images" if files else first_and_count(sorted(others), 3)
    return (
        f"data.root: {folder} holds {holds or 'nothing'} and no class folders; put the images of "
        f"each class into a folder of its own, such as {folder / 'cat' / 'one.jpg'}"
    )


def _label(cfg: DataConfig, rows_by_split: dict[str, list[Row]]) -> ImageSplits:
    """Names become numbers, and the splits that are not given are drawn."""
    known = rows_by_split.get("all") or rows_by_split.get("train", [])
    labels = sorted({row.label for row in known})  # type: ignore[type-var]  # all int or all str
    parts = dict(rows_by_split)
    if "all" in parts:
        parts = dict(zip(SPLITS, _stratify(parts["all"], cfg, cfg.test_fraction), strict=True))
    elif "val" not in parts:
        parts["train"], parts["val"], _ = _stratify(known, cfg, 0.0)
    number = {name: label for label, name in enumerate(labels)}
    splits = {}
    for split in SPLITS:
        rows = [row for row in parts.get(split, []) if row.label in number]
        numbers = np.array([number[row.label] for row in rows], dtype=np.int64)
        splits[split] = Split([row.path for row in rows], numbers)
    return ImageSplits([str(name) for name in labels], **splits)


def _stratify(rows: list[Row], cfg: DataConfig, test_fraction: float) -> list[list[Row]]:
    """Each class split alone, by a generator of its own: a further class moves no image.

    A class of at least three images has one in every split that is asked for.
    """
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(str(row.label), []).append(row)
    parts: list[list[Row]] = [[], [], []]
    for name, members in sorted(by_class.items()):
        rng = np.random.default_rng([cfg.split_seed, zlib.crc32(name.encode())])
        members = sorted(members)
        shuffled = [members[place] for place in rng.permutation(len(members))]
        test = _share(len(members), test_fraction)
        val = _share(len(members) - test, cfg.val_fraction * len(members) / (len(members) - test))
        parts[1] += shuffled[:val]
        parts[2] += shuffled[val : val + test]
        parts[0] += shuffled[val + test :]
    return [sorted(part) for part in parts]


def _share(count: int, fraction: float) -> int:
    """Images of a class for one split: rounded, at least 1, and never the class's last."""
    if fraction <= 0:
        return 0
    return min(max(1, round(count * fraction)), count - 1)


def _index_faults(
    root: Path, splits: ImageSplits, rows_by_split: dict[str, list[Row]]
) -> Iterator[str]:
    known = set(splits.classes)
    if len(known) < 2:
        yield (
            f"data.root: {root} has {len(known)} class ({', '.join(known) or 'none'}); "
            f"a classifier needs at least 2. {EXPECTED}"
        )
    for split in ("val", "test"):
        strange: dict[str, str] = {}
        for row in rows_by_split.get(split, []):
            if str(row.label) not in known:
                strange.setdefault(str(row.label), row.where)
        named = [f"{name!r} ({where})" for name, where in sorted(strange.items())]
        if named:
            yield (
                f"data.root: the {split} split has classes that the train split lacks: "
                f"{first_and_count(named, 10)}. Add training images of them or take them out"
            )
    if len(known) > 1 and not len(splits.val):
        yield (
            "data.val_fraction: no image is left to validate on, by which the best checkpoint is "
            f"chosen; set data.val_fraction above 0 or give {root}/val"
        )


def _batch_fault(cfg: DataConfig, train_size: int) -> Iterator[str]:
    if cfg.batch_size > train_size > 0:
        yield (
            f"data.batch_size: {cfg.batch_size} is larger than the training split of {train_size} "
            f"images, so not one step could be made; set data.batch_size={train_size} or less"
        )
