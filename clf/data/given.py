"""Images to score that a run was not trained on: all that are given, however few they are. No split
is drawn from them, and a class may be absent."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from clf.config import DataConfig, RunConfig
from clf.config.saved import from_dict
from clf.data.exclude import leave_out
from clf.data.generated import is_generated
from clf.data.index import Split, read_rows, split_of
from clf.data.labels import mixed_labels
from clf.data.reader import DataError, Noted, first_and_count
from clf.data.recognise import data_settings_of

GENERAL = ("imagefolder", "annotations", "webdataset")  # readers that any folder may need
WHOLE = "all"  # the split of data that have none


class Given(NamedTuple):
    """Labels are those of the classes that were given; notes are for the user."""

    split: Split
    notes: list[str]


def read_given(
    cfg: DataConfig, trained: Mapping[str, int], checkpoint: Path, split: str | None = None
) -> Given | None:
    """The images of a split that the data has; None if it would have to be drawn.

    Args:
        trained: the number of each class
        checkpoint: of which these are the classes, for messages
        split: None: all images where the data has no splits; else test, val or train, the first
            that is there

    Raises:
        DataError: the data cannot be read
        ValueError: no image, or images of a class that has no number
    """
    read = _read(cfg)
    rows, left_out = leave_out(read.rows, cfg)
    notes = read.notes + left_out
    if split is None:
        split = next((one for one in (WHOLE, "test", "val", "train") if rows.get(one)), WHOLE)
    elif split not in rows:
        return None
    place = cfg.origin or cfg.root or cfg.name
    if not rows.get(split):
        raise ValueError(f"{place} has no image of the {split} split; give another data.root")
    mixed, faults = mixed_labels({split: rows[split]})
    if faults:
        raise DataError(faults)
    here = {str(row.label) for row in rows[split]}
    notes += mixed + compare_classes(here, trained, checkpoint, str(place), may_lack=True)
    rest = [f"{one} ({len(listed)} images)" for one, listed in rows.items() if one != split]
    if rest:
        notes.append(f"the {split} split is scored, and not {' and '.join(rest)}")
    numbers = {row.label: trained[str(row.label)] for row in rows[split]}
    return Given(split_of(split, rows[split], numbers), notes)


def compare_classes(
    here: Iterable[str],
    trained: Mapping[str, int],
    checkpoint: Path,
    place: str,
    may_lack: bool = False,
) -> list[str]:
    """Notes on classes of a checkpoint that the data has no image of.

    Args:
        here: the classes of the data
        place: where they are, in words
        may_lack: whether there may be such classes

    Raises:
        ValueError: the data has other classes
    """
    names = set(here)
    lacking = sorted(set(trained) - names)
    if names - set(trained) or (lacking and not may_lack):
        raise ValueError(
            f"{checkpoint} was trained on other classes than {place} has; they differ in "
            f"{sorted(names ^ set(trained))[:10]}. Give data.root=FOLDER with the same class "
            "folders"
        )
    if not lacking:
        return []
    return [
        f"{len(lacking)} of the checkpoint's {len(trained)} classes have no image here: "
        f"{first_and_count(lacking, 5)}"
    ]


def _read(cfg: DataConfig) -> Noted:
    """All rows; DataError for a fault that does not concern a training alone."""
    try:
        return read_rows(cfg)
    except DataError as error:
        if faults := [fault for fault in error.faults if fault not in error.of_training]:
            raise DataError(faults) from error
        return Noted(error.rows, [])


def with_data(cfg: RunConfig, changes: dict[str, Any], code: Path) -> tuple[RunConfig, bool]:
    """The config with fields of its data replaced, and whether these are other data.

    Another `root` is read as what it looks like, unless `changes` has a reader's `name` or the
    run's reader is the user's own.

    Args:
        code: as for `clf.config.saved.from_dict`

    Raises:
        DataError: a folder that looks like nothing that can be read
    """
    own, changes = cfg.data, dict(changes)
    root = changes.get("root", own.root)
    moved = root is not None and (own.root is None or _absolute(root) != _absolute(own.root))
    if (
        root is not None
        and moved
        and "name" not in changes
        and (own.name in GENERAL or is_generated(own))
    ):
        changes = _recognised(Path(root), own) | changes
    if "stage" not in changes and (root is None or not Path(root).expanduser().is_file()):
        changes["stage"] = "none"  # to read a folder once is no more work than to copy it
    tree = asdict(own)
    other_reader = changes.get("name", own.name) != own.name
    if other_reader:  # without the settings of the run's reader
        shared = {one.name for one in fields(DataConfig)}
        tree = {name: value for name, value in tree.items() if name in shared}
    changed = from_dict(asdict(cfg) | {"data": tree | changes}, code)
    return changed, moved or other_reader


def _recognised(root: Path, own: DataConfig) -> dict[str, Any]:
    """The reader of a folder or tar file; {} where the run's own has to say what is wrong."""
    try:
        found = data_settings_of(root)
    except DataError:
        if is_generated(own):  # it would write its own images there
            raise
        return {}
    return {name: value for name, value in found.items() if name != "root"}


def _absolute(root: str) -> str:
    return os.path.abspath(os.path.expanduser(root))
