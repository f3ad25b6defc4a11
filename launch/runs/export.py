"""From a checkpoint to files that other programs run: each is written, read back and compared with
the checkpoint on the run's own images before it gets its name."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clf.atomic import write_file, write_text
from clf.config.faults import ConfigError
from clf.models.exported import (
    Difference,
    Images,
    Run,
    check,
    check_int8,
    difference,
    in_batches,
    milliseconds,
    one_by_one,
)
from clf.models.onnx_files import is_convolutional, quantise
from launch.runs.model_card import config_of, metadata, model_card
from slurm.stage import stage

if TYPE_CHECKING:
    from clf.scoring import Trained

ENDINGS = {
    "onnx": "onnx",
    "torch_export": "pt2",
    "torchscript": "torchscript",
    "safetensors": "safetensors",
}
CALIBRATION = 256  # training images, from which the range of each activation is taken
NOISE = 32  # images, where there are no others
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is asked for; the fields are the flags of the command."""

    formats: tuple[str, ...] = ("onnx",)
    with_resize: bool = False
    int8: str | None = None  # auto, static or dynamic
    images: int = 1000  # 0: all
    bound: float = 1e-3
    int8_loss: float = 0.02
    without_images: bool = False
    output: Path | None = None

    def faults(self) -> list[str]:
        """What does not go together."""
        faults = []
        if self.int8 and "onnx" not in self.formats:
            faults.append("--int8 is made of the ONNX file: add --format onnx")
        if self.int8 and self.without_images:
            faults.append("--int8 is measured on images: leave out --without-images")
        if self.with_resize and set(self.formats) == {"safetensors"}:
            faults.append("--with-resize: safetensors holds weights alone; add another --format")
        if self.images < 0:
            faults.append(f"--images {self.images}: expected a number of images, or 0 for all")
        faults += [
            f"{flag} {value:g}: expected a number of at least 0"
            for flag, value in (("--bound", self.bound), ("--int8-loss", self.int8_loss))
            if not value >= 0
        ]
        return faults


@dataclass(frozen=True)
class ExportedFile:
    """A finished file and how it was checked."""

    path: Path
    kind: str  # a format, "int8 static" or "int8 dynamic"
    bytes: int
    difference: Difference


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        config: the content of config.json
        shown_to: words for the images
        checkpoint_ms: milliseconds an image of the checkpoint itself, by PyTorch
        threads: of the CPU, for all times
        beside_evaluation: with the resize inside: the largest difference of a probability to the
            evaluation's, and the predictions that change
        stale: files of an earlier export in the same folder, of other weights
    """

    folder: Path
    checkpoint: Path
    config: dict[str, Any]
    files: list[ExportedFile]
    shown_to: str
    checkpoint_ms: float
    threads: int
    beside_evaluation: tuple[float, int] | None
    stale: list[str]


def export(run_or_checkpoint: Path, request: Request, data: dict[str, Any], say: Say) -> Export:
    """Write and check every file that is asked for, and README.md and config.json beside them.

    Args:
        data: fields of the data config to replace, such as {"root": "..."}
        say: is told what takes long

    Raises:
        ConfigError: flags that do not go together, or images that are not there
        ValueError: a network that cannot be exported, or a file that differs from it
    """
    if faults := request.faults():
        raise ConfigError(faults)
    from clf.scoring import trained

    return _Exporter(trained(run_or_checkpoint, data), request, say).export()


def folder_of(checkpoint: Path) -> Path:
    """Where the files go: `export` in the run's folder."""
    inside = checkpoint.parent.name == "checkpoints"
    return (checkpoint.parent.parent if inside else checkpoint.parent) / "export"


class _Exporter:
    """One export: the network, the images that each file is shown, and what is known of it."""

    def __init__(self, trained: "Trained", request: Request, say: Say) -> None:
        import clf.models.export as formats

        self.formats, self.trained, self.request, self.say = formats, trained, request, say
        self.folder = request.output or folder_of(trained.checkpoint)
        data = trained.cfg.data
        self.size = data.size_in_evaluation
        crop = formats.Crop(trained.short_side, self.size, data.interpolation or "bilinear")
        self.config = config_of(trained, formats.weights_digest(trained.model))
        self.network = formats.Classifier(trained.model, crop if request.with_resize else None)
        self.files: list[ExportedFile] = []
        self.stale: list[str] = []
        self.calibration: Images | None = None
        self.as_evaluated: Images | None = None  # with the resize inside, what others resized

    def export(self) -> Export:
        self._read_images()
        self.expected_NC = self.images.by(self.network.run)
        try:
            for kind in dict.fromkeys(self.request.formats):
                self._write(kind)
            if self.request.int8:
                self._write_int8(self.folder / self._name("onnx"))
        finally:
            if self.files:  # those that are finished are whole, whatever the next one came to
                self._write_beside()
        return Export(
            self.folder,
            self.trained.checkpoint,
            self.config,
            self.files,
            self.shown_to,
            milliseconds(self.network.run, self.images),
            self.formats.threads(),
            self._beside_evaluation(),
            self.stale,
        )

    # --- the images ---

    def _read_images(self) -> None:
        if self.request.without_images:
            shape = (NOISE, 3, self.size, self.size)
            noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            self.images = in_batches(noise, np.full(NOISE, -1))
            self.shown_to = f"{NOISE} images of noise"
            return
        datamodule = self.trained.data(stage)
        validation, train = datamodule.splits.val, datamodule.splits.train
        if not len(validation):
            raise ConfigError(["there are no validation images to check with: --without-images"])
        some = validation.some(self.request.images or len(validation))
        self.shown_to = f"{len(some)} of the {len(validation)} validation images"
        self.say(f"reading {self.shown_to} ...")
        self.images = self._as_taken(datamodule, some)
        if self.request.with_resize:
            self.as_evaluated = in_batches(*datamodule.as_evaluated(some))
        if self.request.int8:
            self.calibration = self._as_taken(datamodule, train.some(CALIBRATION))

    def _as_taken(self, datamodule: Any, split: Any) -> Images:
        """Images as the files take them: cropped, or as they are decoded."""
        pixels, labels_N = datamodule.as_evaluated(split)
        if not self.request.with_resize:
            return in_batches(pixels, labels_N)
        return one_by_one(
            lambda index: datamodule.decoded(split, index), range(len(split)), labels_N
        )

    def _beside_evaluation(self) -> tuple[float, int] | None:
        if self.as_evaluated is None:
            return None
        expected_NC = self.expected_NC[-len(self.as_evaluated) :]
        found = difference(self.network.run_cropped, self.as_evaluated, expected_NC)
        return found.largest_difference, found.changed_predictions

    # --- the files ---

    def _name(self, kind: str) -> str:
        inside = ".with_resize" if self._has_resize(kind) else ""
        int8 = ".int8" if kind.startswith("int8") else ""
        return f"model{inside}{int8}.{ENDINGS.get(kind, 'onnx')}"

    def _has_resize(self, kind: str) -> bool:
        return self.request.with_resize and kind != "safetensors"

    def _write(self, kind: str) -> None:
        target, has_resize = self.folder / self._name(kind), self._has_resize(kind)
        texts = metadata(self.config, target.name, has_resize)

        def make(temporary: Path) -> None:
            self.formats.write(kind, self.network, self.size, temporary, texts)
            if kind == "safetensors":  # no program, so a network is filled from it
                self.formats.read_tensors(self.trained.model, temporary)
                run: Run = self.network.run
            else:
                run = self.formats.read(kind, temporary)
            found = difference(run, self.images, self.expected_NC)
            check(found, target.name, self.request.bound)
            self._add(target, temporary, kind, found)

        self._finish(target, make)

    def _write_int8(self, source: Path) -> None:
        how = self.request.int8 or "auto"
        if how == "auto":
            how = "static" if is_convolutional(source) else "dynamic"
        assert self.calibration is not None
        batches: Iterator[np.ndarray] | None = self.calibration.batches()
        target = self.folder / self._name("int8")

        def make(temporary: Path) -> None:
            with self.formats.quiet():
                quantise(source, temporary, batches if how == "static" else None)
            run = self.formats.read("onnx", temporary)
            found = difference(run, self.images, self.expected_NC)
            check_int8(found, target.name, self.request.int8_loss)
            self._add(target, temporary, f"int8 {how}", found)

        self._finish(target, make)

    def _finish(self, target: Path, make: Callable[[Path], None]) -> None:
        self.say(f"writing {target.name} and comparing it with the checkpoint ...")
        target.unlink(missing_ok=True)  # where this one fails, an earlier one must not stand for it
        write_file(target, make)

    def _add(self, target: Path, written: Path, kind: str, found: Difference) -> None:
        content = written.read_bytes()
        self.files.append(ExportedFile(target, kind, len(content), found))
        self.config["files"][target.name] = {
            "format": kind,
            "resize_inside": self._has_resize(kind),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "checked_on": self.shown_to,
            **asdict(found),
        }

    def _write_beside(self) -> None:
        """README.md and config.json, with the files of earlier exports of the same weights."""
        path = self.folder / "config.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        digest = self.config["checkpoint"]["weights_sha256"]
        still = {
            name: entry
            for name, entry in earlier.get("files", {}).items()
            if (self.folder / name).is_file() and name not in self.config["files"]
        }
        if earlier.get("checkpoint", {}).get("weights_sha256") == digest:
            self.config["files"] = still | self.config["files"]
        else:
            self.stale = list(still)
        write_text(path, json.dumps(self.config, indent=2, ensure_ascii=False) + "\n")
        write_text(self.folder / "README.md", model_card(self.config))
