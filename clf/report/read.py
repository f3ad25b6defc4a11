"""Everything that a report shows of a run, read from its folder alone: no images, no network, and
no machine that the run was on."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clf.config.words import load_yaml
from clf.predictions import Predictions
from clf.run_folder import (
    RunFolder,
    read_commit,
    read_events,
    read_json,
    read_scalars,
    read_status,
)

SPLITS = ("train", "val", "test")
FINAL = ("test", "val")  # the evaluation that ends a run: of the test images, if there are any


@dataclass(frozen=True)
class RunReport:
    """A run's records. What the run has not written is empty or None."""

    folder: RunFolder
    split: str  # of the evaluation that is shown
    status: dict[str, Any]
    config: dict[str, Any]
    config_text: str
    scalars: list[dict[str, str]]  # rows of metrics.csv, cells as text
    per_class: list[dict[str, str]]  # rows of the table of `split`
    predictions: Predictions | None  # of `split`
    pictures: Path  # <index>.jpg of images of `split`
    images: dict[str, dict[str, int]]  # split -> class -> number
    root: str  # of the data
    tiles: list[str]  # classes of the training images in `folder.train_images`
    environment: dict[str, Any]
    events: list[dict[str, Any]]  # of the jobs: starts and ends
    commit: dict[str, Any] = field(default_factory=dict)  # of the code, if Git knew it
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)  # of `split`, by name
    source: str = ""  # where other images than the run's own come from

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    @property
    def classes(self) -> list[str]:
        """Names in label order."""
        if self.predictions is not None:
            return self.predictions.classes
        return [row["class"] for row in self.per_class]

    def final(self, name: str) -> float | None:
        """A number of the evaluation that is shown, such as "acc_top1"."""
        return self.numbers.get(f"{self.split}/{name}")


def read_run(path: Path) -> RunReport:
    """The report of a run on its own images.

    Raises:
        ValueError: `path` is no run folder
    """
    folder = RunFolder(path)
    if not folder.config.is_file() and read_status(path) is None:
        raise ValueError(
            f"{path}: expected a run folder, such as runs/NAME, with a config.yaml or status.json"
        )
    status = read_status(path) or {}
    split = next((one for one in FINAL if folder.predictions_of(one).is_file()), None)
    split = split or next((one for one in FINAL if _table(folder, one).is_file()), "val")
    predictions = folder.predictions_of(split)
    data = read_json(folder.data) or {}
    text = folder.config.read_text(encoding="utf-8") if folder.config.is_file() else ""
    return RunReport(
        folder=folder,
        split=split,
        status=status,
        config=load_yaml(text)[0] or {},
        config_text=text,
        scalars=read_scalars(path),
        per_class=read_rows(_table(folder, split)),
        predictions=Predictions.read(predictions) if predictions.is_file() else None,
        pictures=folder.pictures_of(split),
        images={name: data.get("images", {}).get(name, {}) for name in SPLITS},
        root=data.get("root", ""),
        tiles=read_json(folder.train_images.with_suffix(".json")) or [],
        environment=read_json(folder.environment) or {},
        events=read_events(path),
        commit=read_commit(path),
        notes=folder.notes,
        numbers=status.get("metrics", {}),
    )


def _table(folder: RunFolder, split: str) -> Path:
    return folder.per_class / f"{split}.csv"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a per-class table, cells as text; [] if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))
