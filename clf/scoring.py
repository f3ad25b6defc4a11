"""What is done with a checkpoint: `evaluate` scores it on images whose classes are known.

All of it runs on one device, in the batches of the run's own evaluation, so that floats are added
in the same order.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment

from clf.config import DataConfig, RunConfig
from clf.config.saved import from_dict
from clf.data.datamodule import ClassificationDataModule
from clf.data.exclude import place_in_data
from clf.data.generated import is_generated
from clf.data.given import read_given
from clf.data.index import Split
from clf.data.reader import SPLITS, DataError
from clf.data.recognise import data_settings_of
from clf.data.sampler import micro_batch_size
from clf.data.transforms import EvalTransform
from clf.models.base import BaseClassificationModel
from clf.models.build import build_model
from clf.optim.ema import AS_TRAINED
from clf.parallel.lightning_internals import quiet_lightning
from clf.parallel.strategies import trainer_arguments, world_size
from clf.predictions import Predictions
from clf.resilience.checkpoint import RECORD, find_checkpoint, read_checkpoint
from clf.tracking.epochs import ProgressBar
from clf.tracking.predictions import KeepPredictions
from clf.tracking.tables import PerClassRow, rows_from_counts

Stage = Callable[[RunConfig], RunConfig]
GENERAL = ("imagefolder", "annotations", "webdataset")  # readers that any folder may need


@dataclass(frozen=True)
class Evaluation:
    split: str  # "all" where other data than the run's own have no splits
    checkpoint: Path
    scalars: dict[str, float]  # "<split>/loss", "<split>/acc_top1", ...
    per_class: list[PerClassRow]
    cfg: RunConfig  # of the run, with the data that were scored
    other: bool = False  # whether these are other data than the run's own
    notes: list[str] = field(default_factory=list)  # of the data
    predictions: Predictions | None = None  # None: the model's test_step returns no logits


def evaluate(
    run_or_checkpoint: Path,
    split: str | None = None,
    predictions: Path | None = None,
    data: dict[str, Any] | None = None,
    progress: bool = True,
    stage: Stage | None = None,
) -> Evaluation:
    """Score a run's best checkpoint, or a checkpoint file, on one device.

    Other data than the run's own, by their reader or their folder, are scored as they are given: no
    split is drawn from them unless `split` names one that they have not, and a class may be absent.

    Args:
        run_or_checkpoint: a run folder or a file
        split: "train", "val" or "test"; None: test if the data has one, else val, else all images
        predictions: CSV to write, a row an image; see `Predictions.write_csv`
        data: fields of the data config to replace, such as {"root": "..."}
        stage: unpacks `data.root` to this machine's disk where it is a tar file (`slurm.stage`)

    Raises:
        ValueError: no checkpoint there, an empty split, or data that has a class which the
        checkpoint has not
    """
    quiet_lightning()
    path = find_checkpoint(run_or_checkpoint)
    record = read_checkpoint(path)[RECORD]
    code = path.absolute().parent.parent / "code"
    cfg, other = with_data(on_one_device(from_dict(record["config"], code)), data or {}, code)
    if stage is not None and cfg.data.stage == "node":
        cfg = stage(cfg)
    datamodule = ClassificationDataModule(cfg.data, cfg.seed, cfg.trusted_packages)
    images, notes = _images(datamodule, record["class_to_idx"], path, split, other)
    loader = datamodule.loader_of(images)
    if not len(loader):
        place = cfg.data.origin or cfg.data.root or cfg.data.name
        raise ValueError(f"the {images.name} split of {place} has no images")
    classes = sorted(record["class_to_idx"], key=record["class_to_idx"].__getitem__)
    model = build_model(cfg, len(classes), pretrained=False)
    keep = KeepPredictions(classes)
    trainer = _trainer(cfg, keep, progress)
    trainer.test(model, dataloaders=loader, ckpt_path=path, weights_only=True, verbose=False)
    scalars = {
        name.replace("test/", f"{images.name}/", 1): float(value)
        for name, value in trainer.callback_metrics.items()
    }
    rows = rows_from_counts(classes, *model.per_class_counts("test"))
    kept = keep.predictions and _with_original_paths(keep.predictions, cfg)
    if predictions and kept:
        kept.write_csv(predictions)
    return Evaluation(images.name, path, scalars, rows, cfg, other, notes, kept)


def _images(
    datamodule: ClassificationDataModule,
    trained: dict[str, int],
    checkpoint: Path,
    split: str | None,
    other: bool,
) -> tuple[Split, list[str]]:
    """The images to score, and notes on them."""
    if other and (given := read_given(datamodule.cfg, trained, checkpoint, split)) is not None:
        return given
    try:
        datamodule.prepare_data()
    except DataError as error:
        if not other:
            raise
        raise DataError(
            [
                f"there is no {split} split in these data, and none can be drawn as for a "
                "training; leave the split out to have all images scored",
                *error.faults,
            ]
        ) from error
    notes = datamodule.number_like(trained, checkpoint, may_lack=True)
    splits = datamodule.splits
    images: Split = getattr(splits, split or ("test" if len(splits.test) else "val"))
    notes = [*splits.notes, *notes]
    if other:
        total = sum(len(getattr(splits, name)) for name in SPLITS)
        notes.append(
            f"these data have no {images.name} split: {len(images)} of their {total} images are "
            "drawn as for a training; without a split that you name, all are scored"
        )
    return images, notes


def on_one_device(cfg: RunConfig) -> RunConfig:
    """The config that a run was trained with, changed to score its checkpoint on one device."""
    # The batches of the run's own evaluation, so that floats are added in the same order.
    batch = cfg.data.eval_batch_size or micro_batch_size(cfg.data, world_size(cfg))
    images = replace(cfg.data, eval_batch_size=batch)
    one_device = replace(cfg.strategy, name="single", sync_batchnorm=False)
    return replace(cfg, nodes=1, gpus=1, data=images, strategy=one_device)


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


def _with_original_paths(predictions: Predictions, cfg: RunConfig) -> Predictions:
    """With the paths in the data as they were given, not in a copy that may be gone tomorrow."""
    origin = cfg.data.origin
    if origin is None:
        return predictions
    images = [os.path.join(origin, place_in_data(path, cfg.data)) for path in predictions.images]
    return replace(predictions, images=images)


def _trainer(cfg: RunConfig, keep: Callback, progress: bool) -> Trainer:
    """What runs a model over a loader in the precision of the run, all of it."""
    return Trainer(
        logger=False,
        enable_checkpointing=False,
        callbacks=[keep, *([ProgressBar()] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[LightningEnvironment()],  # it is one process, also within a job of SLURM
        **trainer_arguments(cfg),
    )


@dataclass(frozen=True)
class Trained:
    """A checkpoint's model with its weights (their average, with `ema.decay`), on the CPU.

    Attributes:
        cfg: of the run, changed to evaluate on one device
        classes: names in label order
        epoch, step: after which the checkpoint was saved, counted from 1
        averaged: whether the weights are an average
    """

    checkpoint: Path
    cfg: RunConfig
    classes: list[str]
    model: BaseClassificationModel
    epoch: int
    step: int
    averaged: bool

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.checkpoint.absolute().parent.parent

    @property
    def short_side(self) -> int:
        """Pixels of an image's short side before the evaluation's centre crop."""
        return EvalTransform(self.cfg.data).short_side

    def data(self, stage: Stage | None = None) -> ClassificationDataModule:
        """The images of the run, their classes numbered like the model's outputs. `stage`: as for
        `evaluate`."""
        cfg = self.cfg
        if stage is not None and cfg.data.stage == "node":
            cfg = stage(cfg)
        datamodule = ClassificationDataModule(cfg.data, cfg.seed, cfg.trusted_packages)
        datamodule.prepare_data()
        numbers = {name: label for label, name in enumerate(self.classes)}
        datamodule.number_like(numbers, self.checkpoint, may_lack=True)
        return datamodule


def trained(run_or_checkpoint: Path, data: dict[str, Any] | None = None) -> Trained:
    """What a checkpoint holds, in eager mode and the usual memory format; its images are not read.

    Args:
        run_or_checkpoint: a run folder or a file
        data: fields of the data config to replace, such as {"root": "..."}

    Raises:
        ValueError: no checkpoint there, or weights that are not this network's
    """
    path = find_checkpoint(run_or_checkpoint)
    checkpoint = read_checkpoint(path)
    record = checkpoint[RECORD]
    code = path.absolute().parent.parent / "code"
    cfg, _ = with_data(on_one_device(from_dict(record["config"], code)), data or {}, code)
    plain = replace(cfg.strategy, compile=False, gradient_checkpointing=False, channels_last=False)
    cfg = replace(cfg, strategy=plain)
    classes = sorted(record["class_to_idx"], key=record["class_to_idx"].__getitem__)
    model = build_model(cfg, len(classes), pretrained=False)
    model.load_state_dict(checkpoint["state_dict"])
    epoch, step = int(checkpoint["epoch"]) + 1, int(checkpoint["global_step"])
    return Trained(path, cfg, classes, model.eval(), epoch, step, AS_TRAINED in checkpoint)
