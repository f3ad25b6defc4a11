"""What is done with a checkpoint: `evaluate` scores it on images whose classes are known.

All of it runs on one device, in the batches of the run's own evaluation, so that floats are added
in the same order.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment

from clf.config import RunConfig
from clf.config.saved import from_dict
from clf.data.datamodule import ClassificationDataModule
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


@dataclass(frozen=True)
class Evaluation:
    split: str
    checkpoint: Path
    scalars: dict[str, float]  # "<split>/loss", "<split>/acc_top1", ...
    per_class: list[PerClassRow]
    notes: list[str] = field(default_factory=list)  # of the data
    predictions: Predictions | None = None  # None: the model's test_step returns no logits


def evaluate(
    run_or_checkpoint: Path,
    split: str | None = None,
    predictions: Path | None = None,
    data: dict[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score a run's best checkpoint, or a checkpoint file, on one device.

    Args:
        run_or_checkpoint: a run folder or a file
        split: "train", "val" or "test"; None: test if the data has one, else val
        predictions: CSV to write, a row an image: image, label, predicted, probability
        data: fields of the data config to replace, such as {"root": "..."}

    Raises:
        ValueError: no checkpoint there, an empty split, or data that has a class which the
        checkpoint has not
    """
    quiet_lightning()
    path = find_checkpoint(run_or_checkpoint)
    record = read_checkpoint(path)[RECORD]
    cfg = on_one_device(from_dict(record["config"], path.absolute().parent.parent / "code"), data)
    datamodule = ClassificationDataModule(cfg.data, cfg.seed, cfg.trusted_packages)
    datamodule.prepare_data()
    datamodule.setup("test")
    notes = datamodule.number_like(record["class_to_idx"], path, may_lack=True)
    split = split or ("test" if len(datamodule.splits.test) else "val")
    loader = datamodule.eval_loader(split)
    if not len(loader):
        raise ValueError(f"the {split} split of {cfg.data.root or cfg.data.name} has no images")
    model = build_model(cfg, datamodule.num_classes, pretrained=False)
    keep = KeepPredictions(datamodule.classes)
    trainer = _trainer(cfg, keep, progress)
    trainer.test(model, dataloaders=loader, ckpt_path=path, weights_only=True, verbose=False)
    scalars = {
        name.replace("test/", f"{split}/", 1): float(value)
        for name, value in trainer.callback_metrics.items()
    }
    rows = rows_from_counts(datamodule.classes, *model.per_class_counts("test"))
    if predictions and keep.predictions:
        keep.predictions.write_csv(predictions)
    notes = [*datamodule.splits.notes, *notes]
    return Evaluation(split, path, scalars, rows, notes, keep.predictions)


def on_one_device(cfg: RunConfig, data: dict[str, Any] | None = None) -> RunConfig:
    """The config that a run was trained with, changed to score its checkpoint on one device.

    Args:
        data: as for `evaluate`
    """
    # The batches of the run's own evaluation, so that floats are added in the same order.
    batch = cfg.data.eval_batch_size or micro_batch_size(cfg.data, world_size(cfg))
    images = replace(cfg.data, **{"eval_batch_size": batch} | (data or {}))
    one_device = replace(cfg.strategy, name="single", sync_batchnorm=False)
    return replace(cfg, nodes=1, gpus=1, data=images, strategy=one_device)


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

    def data(self) -> ClassificationDataModule:
        """The images of the run, their classes numbered like the model's outputs."""
        datamodule = ClassificationDataModule(self.cfg.data, self.cfg.seed)
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
    cfg = from_dict(record["config"], path.absolute().parent.parent / "code")
    cfg = on_one_device(replace(cfg, data=replace(cfg.data, **(data or {}))))
    plain = replace(cfg.strategy, compile=False, gradient_checkpointing=False, channels_last=False)
    cfg = replace(cfg, strategy=plain)
    classes = sorted(record["class_to_idx"], key=record["class_to_idx"].__getitem__)
    model = build_model(cfg, len(classes), pretrained=False)
    model.load_state_dict(checkpoint["state_dict"])
    epoch, step = int(checkpoint["epoch"]) + 1, int(checkpoint["global_step"])
    return Trained(path, cfg, classes, model.eval(), epoch, step, AS_TRAINED in checkpoint)
