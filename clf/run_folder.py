"""The run folder: where everything a run leaves is, in open formats. Imports no torch.

runs/<name>/  config.yaml  labels_mapping.json  status.json  metrics.csv  per_class/*.csv
              checkpoints/{best,last}.ckpt  wandb/  logs/  code/
"""

import csv
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODE = ("launch", "clf", "configs", "slurm", "pyproject.toml")  # what a job needs to run
SILENT_S = 60  # a running job rewrites status.json far more often
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make the folder, readable by its owner alone: configs and logs show private paths."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = cls(path)
        for made in (folder.checkpoints, folder.per_class, folder.logs, folder.wandb):
            made.mkdir(exist_ok=True, mode=0o700)
        return folder

    @staticmethod
    def write_json(path: Path, content: Any) -> None:
        """`write_text` of indented JSON; numbers that JSON lacks (NaN, infinity) become null."""
        text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(path, text + "\n")

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def metrics_csv(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def per_class(self) -> Path:
        return self.path / "per_class"

    @property
    def wandb(self) -> Path:
        return self.path / "wandb"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def labels_mapping(self) -> Path:
        return self.path / "labels_mapping.json"


def write_text(path: Path, text: str) -> None:
    """Write aside, bring to disk and rename: a reader, or a kill, never meets half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def snapshot_code(source: Path, target: Path) -> None:
    """Copy what a job runs, so that editing the checkout never changes a queued job.

    A snapshot that is there already stays: the run goes on with the code it began with.
    """
    if target.exists():
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True)
    for name in CODE:
        if (source / name).is_dir():
            shutil.copytree(source / name, aside / name, ignore=IGNORED)
        elif (source / name).is_file():
            shutil.copy2(source / name, aside / name)
    aside.replace(target)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
