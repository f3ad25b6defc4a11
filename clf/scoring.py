"""What is done with a checkpoint: `evaluate` scores it on images whose classes are known, `predict`
labels any images.

All of it runs on one device, in the batches of the run's own evaluation, so that floats are added
in the same order.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment

from clf.config import RunConfig
from clf.config.saved import from_dict
from clf.data.datamodule import ClassificationDataModule
from clf.data.decode import REMEDY
from clf.data.exclude import place_in_data
from clf.data.given import read_given, with_data
from clf.data.index import Split
from clf.data.reader import SPLITS, DataError, Source
from clf.data.sampler import micro_batch_size
from clf.data.transforms import EvalTransform
from clf.models.base import BaseClassificationModel
from clf.models.build import build_model
from clf.optim.ema import AS_TRAINED
from clf.parallel.lightning_internals import quiet_lightning
from clf.parallel.strategies import resolve_accelerator, trainer_arguments, world_size
from clf.predictions import Predictions
from clf.resilience.checkpoint import RECORD, find_checkpoint, read_checkpoint
from clf.run_folder import RunFolder
from clf.tracking.epochs import ProgressBar
from clf.tracking.predictions import KeepPredictions, KeepTop
from clf.tracking.tables import PerClassRow, rows_from_counts

NO_MORE: Mapping[str, Any] = MappingProxyType({})
Stage = Callable[[RunConfig], RunConfig]


@dataclass(frozen=True)
class Evaluation:
    split: str  # "all" where other data than the run's own have no splits
    checkpoint: Path
    scalars: dict[str, float]  # "<split>/loss", "<split>/acc_top1", ...
    per_class: list[PerClassRow]
    cfg: RunConfig  # of the run, with the data that were scored
    images: Split
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
    opened = open_checkpoint(run_or_checkpoint)
    path, classes = opened.path, opened.classes
    cfg, other = with_data(opened.cfg, data or {}, opened.code)
    if stage is not None and cfg.data.stage == "node":
        cfg = stage(cfg)
    datamodule = _data_of_run(cfg, None if other else path)
    images, notes = _images(datamodule, opened.class_to_idx, path, split, other)
    loader = datamodule.loader_of(images)
    if not len(loader):
        place = cfg.data.origin or cfg.data.root or cfg.data.name
        raise ValueError(f"the {images.name} split of {place} has no images")
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
    return Evaluation(images.name, path, scalars, rows, cfg, images, other, notes, kept)


def _data_of_run(cfg: RunConfig, checkpoint: Path | None) -> ClassificationDataModule:
    """The images that the run of a checkpoint began with. None: other images than the run's."""
    kept = checkpoint and RunFolder(checkpoint.absolute().parent.parent).data_index
    return ClassificationDataModule(
        cfg.data, cfg.seed, cfg.trusted_packages, kept_index=kept, keep=False
    )


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


class Opened(NamedTuple):
    """A checkpoint and what it says of its run."""

    path: Path
    content: dict[str, Any]
    cfg: RunConfig  # of the run, changed to score on one device
    class_to_idx: dict[str, int]
    code: Path  # of the run; it may be absent

    @property
    def classes(self) -> list[str]:
        """Names in label order."""
        return sorted(self.class_to_idx, key=self.class_to_idx.__getitem__)


def open_checkpoint(run_or_checkpoint: Path) -> Opened:
    """A run's best checkpoint, or a checkpoint file; ValueError if there is none, or a damaged
    one."""
    path = find_checkpoint(run_or_checkpoint)
    content = read_checkpoint(path)
    record, code = content[RECORD], path.absolute().parent.parent / "code"
    cfg = on_one_device(from_dict(record["config"], code))
    return Opened(path, content, cfg, record["class_to_idx"], code)


def on_one_device(cfg: RunConfig) -> RunConfig:
    """The config that a run was trained with, changed to score its checkpoint on one device."""
    # The batches of the run's own evaluation, so that floats are added in the same order.
    batch = cfg.data.eval_batch_size or micro_batch_size(cfg.data, world_size(cfg))
    images = replace(cfg.data, eval_batch_size=batch)
    one_device = replace(cfg.strategy, name="single", sync_batchnorm=False)
    return replace(cfg, nodes=1, gpus=1, data=images, strategy=one_device)


def _with_original_paths(predictions: Predictions, cfg: RunConfig) -> Predictions:
    """With the paths in the data as they were given, not in a copy that may be gone tomorrow."""
    origin = cfg.data.origin
    if origin is None:
        return predictions
    images = [os.path.join(origin, place_in_data(path, cfg.data)) for path in predictions.images]
    return replace(predictions, images=images)


@dataclass(frozen=True)
class Labelled:
    """The K most probable classes of N images, in the order in which the images were given.

    Attributes:
        classes: names in label order
        images: paths as given; those that could not be read are in `unread` alone
        top_NK: int64, classes, the most probable first: the one with the largest logit
        probabilities_NK: float32, theirs
        unread: path -> why it could not be read
        views: what of each image the probabilities are the mean of, in words
    """

    checkpoint: Path
    classes: list[str]
    images: list[str]
    top_NK: np.ndarray
    probabilities_NK: np.ndarray
    unread: dict[str, str]
    views: list[str]


def predict(
    run_or_checkpoint: Path,
    images: Sequence[Source],
    top_k: int = 5,
    batch_size: int | None = None,
    device: str = "auto",
    tta: bool = False,
    progress: bool = True,
) -> Labelled:
    """Label images with a run's best checkpoint, or with a checkpoint file, on one device. They are
    resized and cropped as in the run's evaluations, whose numbers these are to the last bit.

    Args:
        run_or_checkpoint: a run folder or a file
        images: paths, contents of image files, or members of tar files
        top_k: classes of each image that are kept; all of them where there are fewer
        batch_size: of a forward pass; None: that of the run's evaluations
        device: "auto" (a GPU where there is one), "cpu", "cuda", or "cuda:1"
        tta: take the mean of the probabilities of each image and of its mirror image

    Raises:
        ValueError: no checkpoint there, no image, no such device, `tta` of a run that was trained
            without mirror images, or weights that are not finite
    """
    if not images:
        raise ValueError("there is no image to predict")
    quiet_lightning()
    opened = open_checkpoint(run_or_checkpoint)
    path, own, classes = opened.path, opened.cfg, opened.classes
    if tta and not own.data.augment.horizontal_flip:
        raise ValueError(
            "test-time augmentation takes the mean over an image and its mirror image, but this "
            "run was trained without mirror images (data.augment.horizontal_flip=0): a mirrored "
            "digit, for one, is no such digit; leave it out"
        )
    cfg, where = _on_device(own, device)
    data = replace(
        cfg.data,
        eval_batch_size=batch_size or cfg.data.eval_batch_size,
        threads=None,  # this machine's cores, whatever the run's had
        on_bad_image="skip",
        max_bad_fraction=1.0,
        origin=None,
    )
    datamodule = ClassificationDataModule(data, cfg.seed, cfg.trusted_packages)
    split = Split(list(images), np.zeros(len(images), dtype=np.int64), "predict")
    loader = datamodule.loader_of(split)
    model = build_model(cfg, len(classes), pretrained=False)
    keep = KeepTop(min(top_k, len(classes)), mirrored=tta)
    trainer = _trainer(cfg, keep, progress, where)
    trainer.predict(
        model, dataloaders=loader, return_predictions=False, ckpt_path=path, weights_only=True
    )
    indices_N, top_NK, probabilities_NK = keep.result()
    reasons = loader.bad.reasons if loader.bad is not None else {}
    unread = {name: why.removesuffix(f"; {REMEDY}") for name, why in reasons.items()}
    named = [split.path(index) for index in indices_N.tolist()]
    views = ["the image", "its mirror image"] if tta else ["the image"]
    return Labelled(path, classes, named, top_NK, probabilities_NK, unread, views)


def _on_device(cfg: RunConfig, device: str) -> tuple[RunConfig, dict[str, Any]]:
    """The config for a device, and arguments of the Trainer that name it."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        number and not (kind == "cuda" and number.isdigit())
    ):
        raise ValueError(f"device {device}: expected auto, cpu, cuda, or cuda:1 for the second GPU")
    accelerator = {"cuda": "gpu"}.get(kind, kind)
    strategy = replace(cfg.strategy, accelerator=accelerator)
    if resolve_accelerator(strategy) == "cpu" and strategy.precision.startswith("16"):
        strategy = replace(strategy, precision="32-true")  # CPUs compute nothing in float16
    if number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device {device}: this machine has {torch.cuda.device_count()} GPUs")
    return replace(cfg, strategy=strategy), {"devices": [int(number)]} if number else {}


def _trainer(
    cfg: RunConfig, keep: Callback, progress: bool, where: Mapping[str, Any] = NO_MORE
) -> Trainer:
    """What runs a model over a loader in the precision of the run, all of it.

    Args:
        where: arguments in place of those of the config
    """
    return Trainer(
        logger=False,
        enable_checkpointing=False,
        callbacks=[keep, *([ProgressBar()] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[LightningEnvironment()],  # it is one process, also within a job of SLURM
        **{**trainer_arguments(cfg), **where},
    )


@dataclass(frozen=True)
class Trained:
    """A checkpoint's model with its weights (their average, with `ema.decay`), on the CPU.

    Attributes:
        cfg: of the run, changed to evaluate on one device
        classes: names in label order
        epoch, step: after which the checkpoint was saved, counted from 1
        averaged: whether the weights are an average
        other: whether `cfg` names other data than the run's own
    """

    checkpoint: Path
    cfg: RunConfig
    classes: list[str]
    model: BaseClassificationModel
    epoch: int
    step: int
    averaged: bool
    other: bool

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
        datamodule = _data_of_run(cfg, None if self.other else self.checkpoint)
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
    opened = open_checkpoint(run_or_checkpoint)
    path, classes, checkpoint = opened.path, opened.classes, opened.content
    cfg, other = with_data(opened.cfg, data or {}, opened.code)
    plain = replace(cfg.strategy, compile=False, gradient_checkpointing=False, channels_last=False)
    cfg = replace(cfg, strategy=plain)
    model = build_model(cfg, len(classes), pretrained=False)
    model.load_state_dict(checkpoint["state_dict"])
    epoch, step = int(checkpoint["epoch"]) + 1, int(checkpoint["global_step"])
    averaged = AS_TRAINED in checkpoint
    return Trained(path, cfg, classes, model.eval(), epoch, step, averaged, other)
