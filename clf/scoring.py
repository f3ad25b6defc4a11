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
from clf.models.build import build_model
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
