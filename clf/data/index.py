"""From a data config to three lists of images with labels: `load_splits`, and `survey` for a check
before anything runs.

The reader that `data.name` chooses (see `clf.data.reader`) gives rows; here the classes get their
numbers, and the splits that the reader did not give are drawn. Imports neither torch nor, before it
is needed, NumPy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clf.config import DataConfig
from clf.config.batch_rules import size_fault
from clf.config.registry import load
from clf.data import generated, shards
from clf.data.exclude import leave_out, read_list
from clf.data.folders import read_folders
from clf.data.groups import draw_groups
from clf.data.labels import alike, mixed_labels, one_kind_of_label
from clf.data.overlap import Member, overlap_notes
from clf.data.reader import (
    SPLITS,
    DataError,
    Noted,
    Row,
    Rows,
    Source,
    arguments,
    checked,
    first_and_count,
    needs_root,
)
from clf.data.stratify import stratify
from clf.data.tar import tar_classes

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DataError", "ImageSplits", "Split", "Survey", "load_splits", "read_splits", "survey"]


@dataclass(frozen=True)
class Split:
    """N images; `labels` [N] int64 are positions in `ImageSplits.classes`."""

    images: Sequence[Source]
    labels: "np.ndarray"
    name: str = "train"
    places: dict[int, str] = field(default_factory=dict)  # where an image in memory comes from

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> str:
        """The file of an image, or words for one that is in memory."""
        image = self.images[index]
        if not isinstance(image, bytes):
            return str(image)
        return self.places.get(index) or f"image {index} of the {self.name} split"

    @property
    def paths(self) -> list[str]:
        """`path` of all images."""
        return [self.path(index) for index in range(len(self))]

    def some(self, most: int) -> "Split":
        """At most so many of its images, evenly spaced, so that each class has its share."""
        kept = [place * len(self) // most for place in range(most)]
        if len(self) <= most:
            return self
        places = {new: self.path(old) for new, old in enumerate(kept)}
        return Split([self.images[old] for old in kept], self.labels[kept], self.name, places)


@dataclass(frozen=True)
class ImageSplits:
    """What there is to train, validate and test on. `test` may be empty."""

    classes: list[str]  # in label order
    train: Split
    val: Split
    test: Split
    notes: list[str] = field(default_factory=list)  # what the reader says of them, one line each
    drawn: bool = False  # whether the data left a split to be drawn

    @property
    def class_to_idx(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.classes)}

    def numbered(self, classes: Sequence[str]) -> "ImageSplits":
        """The same images, with the labels that the names of their classes have in `classes`."""
        import numpy as np

        place = {name: label for label, name in enumerate(classes)}
        new = np.array([place[name] for name in self.classes], dtype=np.int64)
        splits = {
            one: replace(getattr(self, one), labels=new[getattr(self, one).labels])
            for one in SPLITS
        }
        return replace(self, classes=list(classes), **splits)

    def members(self) -> list[Member]:
        """Every image of every split, in order."""
        return [
            Member(split.name, self.classes[label], image, split.path(place))
            for split in (self.train, self.val, self.test)
            for place, (image, label) in enumerate(zip(split.images, split.labels, strict=True))
        ]


def load_splits(cfg: DataConfig) -> ImageSplits:
    """The images and labels of every split; generated ones are written to disk first if absent.

    Images are not decoded. Classes are sorted by name, as torchvision's ImageFolder sorts them.

    Raises:
        DataError: all that is wrong with the data, not the first fault only
    """
    if generated.is_generated(cfg):
        generated.ensure(cfg)
    splits, faults = read_splits(cfg)
    if splits is None or faults:
        raise DataError(faults)
    return splits


class Survey(NamedTuple):
    """What can be said of the data without writing images, or decoding more than a few."""

    classes: list[str] | None  # None: not known yet
    faults: list[str]  # each begins with the key that it is about
    notes: list[str] = []


def survey(cfg: DataConfig, contents: bool = False) -> Survey:
    """Look at the data before anything runs.

    Args:
        contents: note images that are in two splits or have two labels, and classes of images of
            one colour, which takes longer
    """
    if generated.is_generated(cfg):
        if cfg.stage == "node":
            return Survey(
                None,
                [
                    f"data.stage=node: the images of data={cfg.name} are generated, not copied; it "
                    "is for images of your own"
                ],
            )
        if cfg.group_by is not None:
            nothing = f"the images of data={cfg.name} are generated, and have no groups; set null"
            return Survey(None, [f"data.group_by={cfg.group_by}: {nothing}"])
        if not generated.folder(cfg).exists():
            return _preview(cfg)
    root = Path(cfg.root).expanduser() if cfg.root is not None else None
    if cfg.stage == "node" and root is not None and root.is_file():
        try:
            read_list(cfg)
        except DataError as error:
            return Survey(None, error.faults)
        if cfg.name == "webdataset":
            return Survey(None, [shards.is_a_file(root)])
        return Survey(*tar_classes(root, has_class_folders=load("data", cfg.name) is read_folders))
    splits, faults = read_splits(cfg)
    if splits is None:
        return Survey(None, faults)
    notes = list(splits.notes)
    if contents and not generated.is_generated(cfg):
        notes += _contents(splits, cfg)
    if contents and cfg.cache != "none":
        from clf.data.cache_size import size_note  # imports Pillow

        notes.append(size_note(splits.train.images, splits.val.images, cfg))
    return Survey(splits.classes, faults, notes)


def _contents(splits: ImageSplits, cfg: DataConfig) -> list[str]:
    from clf.data.constant import constant_notes  # imports NumPy and Pillow

    members = splits.members()
    return [*overlap_notes(members, cfg), *constant_notes(members[: len(splits.train)], cfg)]


def _preview(cfg: DataConfig) -> Survey:
    try:
        classes, train_size = generated.preview(cfg)
    except DataError as error:
        return Survey(None, error.faults)
    fault = size_fault(cfg.batch_size, train_size) if train_size else None
    return Survey(classes, [fault] if fault else [])


def read_splits(cfg: DataConfig) -> tuple[ImageSplits | None, list[str]]:
    """The splits as far as they can be had, and all faults."""
    try:
        (rows, notes), faults = read_rows(cfg), []
    except DataError as error:
        rows, notes, faults = error.rows, [], error.faults
        if not rows.keys() & {"train", "all"}:
            rows = {}  # else each of their classes would be one that the train split lacks
    drawn = "all" in rows or "val" not in rows
    for step in (leave_out, draw_groups):
        try:
            rows, more = step(rows, cfg)
            notes = [*notes, *more]
        except DataError as error:
            faults = [*faults, *error.faults]
    if not any(rows.values()):
        nothing = f"data.root: data={cfg.name} found no image in {cfg.root}; give another folder"
        return None, faults or [nothing]
    mixed, mixed_faults = mixed_labels(rows)
    faults += mixed_faults
    splits = _label(cfg, rows)
    notes = [*notes, *mixed, *alike(splits.classes)]
    splits = replace(splits, notes=notes, drawn=drawn)
    faults += _index_faults(cfg, splits, rows)
    if len(splits.train) and (fault := size_fault(cfg.batch_size, len(splits.train))):
        faults.append(fault)
    return splits, faults


def read_rows(cfg: DataConfig) -> Noted:
    """The reader's rows and notes; DataError with its faults."""
    try:
        reader = load("data", cfg.name)
    except ValueError as error:
        raise DataError(f"data.name={cfg.name}: {error}") from error
    if generated.is_generated(cfg):
        if faults := generated.faults(cfg):
            raise DataError(faults)
        return checked(read_folders(generated.folder(cfg)), cfg.name)
    settings = arguments(reader, cfg)
    if cfg.root is not None:
        return checked(reader(Path(cfg.root).expanduser(), **settings), cfg.name)
    if needs_root(reader):
        raise DataError(f"data.root: null, but data={cfg.name} needs it; set data.root=FOLDER")
    return checked(reader(**settings), cfg.name)


def _label(cfg: DataConfig, rows_by_split: Rows) -> ImageSplits:
    """Names become numbers, and the splits that are not given are drawn."""
    parts = one_kind_of_label(rows_by_split)
    known = parts.get("all") or parts.get("train", [])
    labels = sorted({row.label for row in known})  # type: ignore[type-var]  # all int or all str
    if "all" in parts:
        parts = dict(zip(SPLITS, stratify(parts["all"], cfg, cfg.test_fraction), strict=True))
    elif "val" not in parts:
        parts["train"], parts["val"], _ = stratify(known, cfg, 0.0)
    number = {name: label for label, name in enumerate(labels)}
    train, val, test = (split_of(split, parts.get(split, []), number) for split in SPLITS)
    return ImageSplits([str(name) for name in labels], train, val, test)


def split_of(name: str, rows: list[Row], number: Mapping[str | int, int]) -> Split:
    """The rows whose labels have a number."""
    import numpy as np

    rows = [row for row in rows if row.label in number]
    numbers = np.array([number[row.label] for row in rows], dtype=np.int64)
    places = {
        index: row.where
        for index, row in enumerate(rows)
        if row.where and isinstance(row.image, bytes)
    }
    return Split([row.image for row in rows], numbers, name, places)


def _index_faults(cfg: DataConfig, splits: ImageSplits, rows_by_split: Rows) -> Iterator[str]:
    known = set(splits.classes)
    if len(known) < 2:
        yield (
            f"data.root: {cfg.root} has {len(known)} class ({', '.join(known) or 'none'}); "
            "a classifier needs at least 2. Images of each class go into a folder of its own, or "
            "have a label of its own in a list"
        )
    for split in ("val", "test"):
        strange: dict[str, str] = {}
        for row in rows_by_split.get(split, []):
            if str(row.label) not in known:
                strange.setdefault(str(row.label), row.place)
        named = [f"{name!r} ({where})" for name, where in sorted(strange.items())]
        if named:
            yield (
                f"data.root: the {split} split has classes that the train split lacks: "
                f"{first_and_count(named, 10)}. Add training images of them or take them out"
            )
    if len(known) > 1 and not len(splits.val):
        yield (
            "data.val_fraction: no image is left to validate on, by which the best checkpoint is "
            f"chosen; set data.val_fraction above 0 or give {cfg.root}/val"
        )
