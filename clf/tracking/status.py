"""Reading what a running job writes about itself: `status.json`, about once a second, and the
scalars of `metrics.csv`. Imports no torch."""

import csv
import json
from pathlib import Path
from typing import Any

from clf.tracking.run_folder import RunFolder

SILENT_S = 60  # a running job rewrites status.json far more often


def read_status(run_dir: Path) -> dict[str, Any] | None:
    """What the run last said of itself (fields: `clf.tracking.callbacks.StatusFile`).

    None if it has said nothing yet, or if a power cut left the file unreadable.
    """
    try:
        return json.loads(RunFolder(run_dir).status.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def read_scalars(run_dir: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, cells as text; [] before the first."""
    try:
        with RunFolder(run_dir).metrics_csv.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
