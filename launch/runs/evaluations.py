"""Keeps the evaluation of other data beside the run's own: RUN/evaluations/<data>/ with
predictions/<split>.npz and per_class/<split>.csv, as the run itself has them."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clf.atomic import private_files
from clf.config import ConfigError, DataConfig
from clf.config.assign import lay
from clf.config.overrides import parse as parse_settings
from clf.data.decode import Look
from clf.data.given import WHOLE
from clf.data.thumbnails import write_thumbnails
from clf.predictions import Predictions, worth_seeing
from clf.report import evaluated, read_run, write_page
from clf.report.read import read_rows
from clf.run_folder import RunFolder
from clf.tracking.tables import PerClassRow, write_csv

if TYPE_CHECKING:
    from clf.scoring import Evaluation

AS = "test"  # the split that a report shows an evaluation of other data as


def run_or_checkpoint(text: str) -> Path:
    """A path as typed, or the run of that name in runs/, unless there is a run or a file of that
    name here."""
    path, named = Path(text).expanduser(), Path("runs", text)
    is_here = path.is_file() or (path / "checkpoints").is_dir() or not named.exists()
    return path if is_here else named


def data_settings(texts: list[str]) -> dict[str, Any]:
    """`data.key=value` as fields of the data's config, checked like any setting."""
    typed = parse_settings(texts)
    settings, faults = typed.settings, typed.faults
    cfg, more = lay(settings)
    faults += more
    for setting in settings:
        if not setting.key.startswith("data.") or setting.key.count(".") > 1:
            given = f"{setting.key}={setting.text}"
            faults.append(f"{given}: only the data may differ from the run's, such as data.root")
    if faults or cfg is None:
        raise ConfigError(faults)
    if cfg.data.root is not None:
        cfg.data.root = os.path.expanduser(cfg.data.root)  # else as given, like the images' paths
    names = [setting.key.removeprefix("data.") for setting in settings]
    return {name: getattr(cfg.data, name) for name in names}


def run_of(checkpoint: Path) -> RunFolder | None:
    """The run that a checkpoint lies in; None for a file that was copied elsewhere."""
    folder = RunFolder(checkpoint.absolute().parent.parent)
    return folder if folder.config.is_file() else None


def folder_of(run: RunFolder, data: DataConfig) -> RunFolder:
    """Where the evaluation of these data goes, the same for each time that they are scored."""
    place = os.path.abspath(data.origin or data.root or data.name)
    mark = hashlib.sha256(os.fsencode(place)).hexdigest()[:6]
    return RunFolder(run.path / "evaluations" / f"{Path(place).name}-{mark}")


def write_report(run: RunFolder, folder: RunFolder, result: "Evaluation", out: Path | None) -> Path:
    """The run's report with another evaluation in place of its own, and pictures of its images.

    Args:
        folder: where `keep` has kept the evaluation
        out: the page; None: report.html in `folder`
    """
    assert result.predictions is not None
    data, split = result.cfg.data, result.split
    pictures = folder.pictures_of(split)
    with private_files():
        write_thumbnails(result.images, worth_seeing(result.predictions), pictures, Look.of(data))
        place = data.origin or data.root or data.name
        rows = read_rows(folder.per_class / f"{split}.csv")
        numbers = {
            name.replace(f"{split}/", f"{AS}/", 1): value for name, value in result.scalars.items()
        }
        shown = evaluated(
            read_run(run.path),
            replace(result.predictions, split=AS),
            numbers,
            rows,
            pictures,
            f"scored on {place}" + ("" if split == WHOLE else f", {split} split"),
        )
        return write_page(shown, out or folder.report)


def keep(folder: RunFolder, predictions: Predictions, rows: list[PerClassRow]) -> None:
    """Write what is known of each image and of each class; OSError if the folder is not ours."""
    with private_files():
        predictions.write(folder.predictions_of(predictions.split))
        write_csv(rows, folder.per_class / f"{predictions.split}.csv")
