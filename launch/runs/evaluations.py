"""Keeps the evaluation of other data beside the run's own: RUN/evaluations/<data>/ with
predictions/<split>.npz and per_class/<split>.csv, as the run itself has them."""

import hashlib
import os
from pathlib import Path

from clf.config import DataConfig
from clf.predictions import Predictions
from clf.run_folder import RunFolder
from clf.tracking.tables import PerClassRow, write_csv
from slurm.records import private_files


def run_or_checkpoint(text: str) -> Path:
    """A path as typed, or the run of that name in runs/, unless there is a run or a file of that
    name here."""
    path, named = Path(text).expanduser(), Path("runs", text)
    is_here = path.is_file() or (path / "checkpoints").is_dir() or not named.exists()
    return path if is_here else named


def run_of(checkpoint: Path) -> RunFolder | None:
    """The run that a checkpoint lies in; None for a file that was copied elsewhere."""
    folder = RunFolder(checkpoint.absolute().parent.parent)
    return folder if folder.config.is_file() else None


def folder_of(run: RunFolder, data: DataConfig) -> RunFolder:
    """Where the evaluation of these data goes, the same for each time that they are scored."""
    place = os.path.abspath(data.origin or data.root or data.name)
    mark = hashlib.sha256(os.fsencode(place)).hexdigest()[:6]
    return RunFolder(run.path / "evaluations" / f"{Path(place).name}-{mark}")


def keep(folder: RunFolder, predictions: Predictions, rows: list[PerClassRow]) -> None:
    """Write what is known of each image and of each class; OSError if the folder is not ours."""
    with private_files():
        predictions.write(folder.predictions_of(predictions.split))
        write_csv(rows, folder.per_class / f"{predictions.split}.csv")
