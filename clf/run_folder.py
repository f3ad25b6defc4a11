"""The run folder: the names of the files that a run writes, in open formats. Imports no torch.

runs/<name>/  config.yaml  run_id.txt  labels_mapping.json  status.json  job.json  lease.json
              notes.txt  metrics.csv  per_class/*.csv
              checkpoints/{best,last,last-<N>,top-epoch<N>,epoch<N>}.ckpt
              wandb/  code/  bad_images.txt  predictions/{<split>.npz,trained_on.npy}  commit.json
              data_index.npz  data.json  environment.json  train_images.png  pictures/<split>/*.jpg
              start.ckpt  before-<N>/
              report.html  curves.png  confusion.png  bad_loss.jsonl  left_out.json
              logs/{events.jsonl,departures.jsonl,error_rank<r>.json,stacks_rank<r>.txt}
              logs/<job>_<rank>_log.out
"""

import csv
import json
import math
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clf.atomic import PatientWriter, append_line, write_text
from clf.config.faults import printable

TILES = 8  # columns of `RunFolder.train_images`
HANG = "Hang"  # the type of an error record that a hang left (`clf.resilience.hang_report`)
SILENT_S = 60  # a running job rewrites status.json far more often


@dataclass(frozen=True)
class RunFolder:
    """The names of a run's files.

    Attributes:
        writer: for what is written while the run trains, which a full disk must not end
    """

    path: Path
    writer: PatientWriter = field(default_factory=PatientWriter, compare=False, repr=False)
    _noted: list[str] = field(default_factory=list, compare=False, repr=False)  # by this process

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make the folder, readable by its owner alone: configs and logs show private paths."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = cls(path)
        for inner in (folder.checkpoints, folder.per_class, folder.logs, folder.wandb):
            inner.mkdir(exist_ok=True, mode=0o700)
        return folder

    @staticmethod
    def as_json(content: Any) -> str:
        """Indented JSON; numbers that JSON lacks (NaN, infinity) become null."""
        text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
        # A byte of a name that is no UTF-8: JSON has no bytes, and Python reads this escape back.
        return re.sub("[\\ud800-\\udfff]", lambda byte: f"\\u{ord(byte[0]):04x}", text) + "\n"

    @staticmethod
    def write_json(path: Path, content: Any) -> None:
        """Replace a file by the text that `as_json` makes of the content."""
        write_text(path, RunFolder.as_json(content))

    def keep_json(self, path: Path, content: Any) -> None:
        """`write_json`, which goes on where the disk takes nothing, and is tried again."""
        self.writer.write(path, lambda: self.write_json(path, content), keep=True)

    def add_notes(self, notes: Iterable[str]) -> list[str]:
        """Write those notes that notes.txt lacks, a line each, and give them back to be shown."""
        known = [*self.notes, *self._noted]
        lines = (printable(" ".join(note.splitlines())) for note in notes)
        new = [line for line in dict.fromkeys(lines) if line not in known]
        if new:
            self._noted.extend(new)
            text = "".join(f"{line}\n" for line in dict.fromkeys(known + new))
            self.writer.write(self.notes_file, lambda: write_text(self.notes_file, text), keep=True)
        return new

    @property
    def notes(self) -> list[str]:
        """What a user should know of the run though nothing of it stops it."""
        if not self.notes_file.exists():
            return []
        return self.notes_file.read_text(encoding="utf-8").splitlines()

    @property
    def notes_file(self) -> Path:
        return self.path / "notes.txt"

    @property
    def bad_images(self) -> Path:
        """The paths of the images that were left out, one a line (data.on_bad_image=skip)."""
        return self.path / "bad_images.txt"

    @property
    def bad_loss(self) -> Path:
        """The steps whose loss or gradient was not finite, a JSON object a line
        (`clf.resilience.bad_steps`)."""
        return self.path / "bad_loss.jsonl"

    @property
    def left_out(self) -> Path:
        """The steps that are left out since the run went back for them (on_bad_loss=rollback)."""
        return self.path / "left_out.json"

    @property
    def data_index(self) -> Path:
        """The images and labels that the run began with (`clf.data.kept_index`)."""
        return self.path / "data_index.npz"

    @property
    def run_id(self) -> Path:
        """The random name of the run (`clf.resilience.own.run_id`)."""
        return self.path / "run_id.txt"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def commit(self) -> Path:
        """Which Git commit the code is, and whether it was edited; absent where Git knows none."""
        return self.path / "commit.json"

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
    def start(self) -> Path:
        """The weights that the run began from after --refresh-data (`clf.resilience.anew`)."""
        return self.path / "start.ckpt"

    @property
    def replaced(self) -> list[Path]:
        """Former contents of `last`, the newest first."""
        numbered = {
            int(number[1]): path
            for path in self.checkpoints.glob("last-*.ckpt")
            if (number := re.fullmatch(r"last-(\d+)\.ckpt", path.name))
        }
        return [numbered[number] for number in sorted(numbered)]

    @property
    def metrics_csv(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def per_class(self) -> Path:
        return self.path / "per_class"

    def epoch_table(self, split: str, number: int) -> Path:
        """The per-class table after an epoch, the first of which is 1."""
        return self.per_class / f"{split}_epoch{number:03d}.csv"

    def predictions_of(self, split: str) -> Path:
        """The predictions of the evaluation that ended the run (`clf.predictions`)."""
        return self.path / "predictions" / f"{split}.npz"

    def pictures_of(self, split: str) -> Path:
        """<index>.jpg of images of the split that are worth seeing (`clf.predictions`)."""
        return self.path / "pictures" / split

    @property
    def train_images(self) -> Path:
        """The first training images as the network sees them, in a grid of `TILES` columns."""
        return self.path / "train_images.png"

    @property
    def data(self) -> Path:
        """Where the images are, and how many of each class are in each split."""
        return self.path / "data.json"

    @property
    def environment(self) -> Path:
        """Versions of the packages, and the machine, of the latest start."""
        return self.path / "environment.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def trained_on(self) -> Path:
        """Fingerprints of the images that the run was trained on (`clf.data.label_errors`)."""
        return self.path / "predictions" / "trained_on.npy"

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
    def job(self) -> Path:
        return self.path / "job.json"

    @property
    def lease(self) -> Path:
        """Who writes into the folder now (`clf.resilience.lease`); absent where nobody does."""
        return self.path / "lease.json"

    @property
    def events(self) -> Path:
        return self.logs / "events.jsonl"

    @property
    def departures(self) -> Path:
        """The nodes whose accuracy departed from the others' by more than chance, one a line."""
        return self.logs / "departures.jsonl"

    def record_departure(self, node: str, split: str, epoch: int) -> None:
        """Add to `departures`, unless the disk does not take it."""
        line = {"time": time.time(), "node": node, "split": split, "epoch": epoch}
        path = self.departures
        self.writer.write(path, lambda: append_line(path, json.dumps(line)))

    def error(self, rank: int) -> Path:
        return self.logs / f"error_rank{rank}.json"

    @property
    def errors(self) -> list[Path]:
        """The error files of all ranks that failed."""
        return sorted(self.logs.glob("error_rank*.json"))

    def stacks(self, rank: int) -> Path:
        """Where the threads of a rank were when the run hung."""
        return self.logs / f"stacks_rank{rank}.txt"

    def log(self, job_id: str, rank: int | str) -> Path:
        """The log of a rank; all starts of a job append to it. submitit writes the same name."""
        return self.logs / f"{job_id}_{rank}_log.out"

    @property
    def labels_mapping(self) -> Path:
        return self.path / "labels_mapping.json"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The content of a file; None if there is none, or if a power cut left it unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def read_status(run_dir: Path) -> dict[str, Any] | None:
    """What the run last wrote about itself (fields: `clf.tracking.callbacks.StatusFile`); None if
    that is nothing yet."""
    return read_json(RunFolder(run_dir).status)


def read_commit(run_dir: Path) -> dict[str, Any]:
    """The `commit` of the run's code, 40 hex digits, and whether tracked files had been `changed`
    (None: not known); {} where Git knows nothing of the code."""
    return read_json(RunFolder(run_dir).commit) or {}


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """What `slurm.records.record_event` wrote, in order, without lines that a full disk or a power
    cut has damaged."""
    return read_json_lines(RunFolder(run_dir).events)


def read_departures(run_dir: Path) -> list[dict[str, Any]]:
    """What `RunFolder.record_departure` wrote: time, node, split, epoch."""
    return read_json_lines(RunFolder(run_dir).departures)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that has one a line, without lines that a full disk or a power cut has
    damaged; [] if there is no file."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def read_scalars(run_dir: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, with cells as text; [] before the first row."""
    try:
        with RunFolder(run_dir).metrics_csv.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
