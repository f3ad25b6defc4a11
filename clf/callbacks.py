"""The callbacks of a training, and why they come in this order."""

from collections.abc import Sequence

from lightning import Callback
from lightning.pytorch.callbacks import LearningRateMonitor

from clf.config import RunConfig
from clf.config.build import build
from clf.config.registry import logged_by
from clf.cores import cores_per_rank
from clf.data.datamodule import ClassificationDataModule
from clf.optim.ema import WeightAverage, WeightsAsTrained
from clf.parallel.batchnorm import AgreeOnBatchNorm
from clf.parallel.freezing import FreezeBackbone
from clf.resilience.agreement import Agreement
from clf.resilience.bad_loss import BadLoss, FiniteWeights
from clf.resilience.checkpoint import RunRecord, checkpoint_callbacks
from clf.resilience.midway import SaveMidway
from clf.resilience.preempt import LoaderPosition, Preemption
from clf.resilience.seeding import SeedEachMicroBatch
from clf.resilience.watchdog import Watchdog
from clf.run_folder import RunFolder
from clf.tracking.callbacks import PerClassTables, StatusFile
from clf.tracking.early_stopping import StopEarly
from clf.tracking.epochs import EpochLines, ProgressBar
from clf.tracking.nodes import node_name
from clf.tracking.pictures import TrainingImages
from clf.tracking.predictions import KeepPredictions
from clf.tracking.steps import GradientNorm, Throughput
from clf.tracking.wandb_nodes import NodeMetrics


def callbacks(
    cfg: RunConfig,
    folder: RunFolder,
    datamodule: ClassificationDataModule,
    progress: bool,
    agreement: Agreement,
    search: Sequence[Callback] = (),
    left_out: Sequence[int] = (),
) -> list[Callback]:
    """What watches the run, in this order. Lightning calls each hook of all callbacks in the order
    of the list, except that it moves ModelCheckpoint to the end.

    - The search for the micro-batch sets the accumulation, which others count.
    - BadLoss takes a bad step back before others look at what it did, and refuses a checkpoint
      after one.
    - Watchdog comes before all that could hang.
    - LoaderPosition restores the place in the epoch that StatusFile writes when training begins.
    - SeedEachMicroBatch comes before anything that could draw random numbers in a batch.
    - FreezeBackbone comes before AgreeOnBatchNorm, which looks at what trains.
    - AgreeOnBatchNorm comes before everything that evaluates or saves the model.
    - WeightsAsTrained and WeightAverage come after it, since it puts statistics that all ranks
      agree on into a checkpoint, and before all that look at a validation, which is of the average.
    - FiniteWeights comes after these three, which have put the weights into a checkpoint.
    - Throughput, PerClassTables and KeepPredictions come before StatusFile, which writes the newest
      speed and, with the numbers of an evaluation, promises that its table is on disk.
    - StopEarly counts before ModelCheckpoint saves its count, and so before a run that goes on.
    - The user's own come last, so that they see what ours have done.
    - SaveMidway and Preemption come last of those that act on a step: they save, and leave, when
      all others have seen the step as done.

    Args:
        progress: show a progress bar; False: a line an epoch
        agreement: at which step all ranks leave, once one is asked to
        search: for data.micro_batch_size=auto
        left_out: steps that on_bad_loss=rollback leaves out
    """
    stop, declared = cfg.early_stopping, logged_by(cfg.model._target_)
    stops = []
    if stop.patience is not None:
        stops = [StopEarly(cfg.checkpoint.monitor, stop.min_delta, stop.patience, declared)]
    nodes = [NodeMetrics(folder)] if cfg.nodes > 1 else []
    freezing = [FreezeBackbone(cfg.model.freeze_epochs)] if cfg.model.freeze_epochs else []
    averages = [WeightAverage(cfg.ema.decay, cfg.ema.warmup)] if cfg.ema.decay is not None else []
    watch, timeout_s = [], cfg.hang_timeout_s
    if timeout_s is not None and not cfg.debug:  # nobody hurries a breakpoint
        watch = [Watchdog(timeout_s, folder, node_name(), cfg.strategy.compile)]
    bad_loss = BadLoss(cfg.on_bad_loss, folder, list(left_out))
    midway = SaveMidway(cfg.checkpoint, folder.last)
    return [
        *search,
        bad_loss,
        *watch,
        LoaderPosition(),
        SeedEachMicroBatch(cfg.seed),
        *freezing,
        AgreeOnBatchNorm(),
        WeightsAsTrained(),
        *averages,
        FiniteWeights(),
        RunRecord(cfg, datamodule.class_to_idx, folder),
        LearningRateMonitor(logging_interval="step"),
        Throughput(cfg.data.batch_size, cfg.data, cores_per_rank(cfg.gpus or 1)),
        GradientNorm(bad_loss.gradient_norm),
        PerClassTables(folder, class_scalars=cfg.tracking.class_scalars),
        TrainingImages(folder, datamodule.classes),
        KeepPredictions(datamodule.classes, folder, datamodule.write_thumbnails),
        StatusFile(folder),
        *nodes,
        *stops,
        *checkpoint_callbacks(cfg.checkpoint, folder.checkpoints, declared),
        ProgressBar() if progress else EpochLines(),
        *_own_callbacks(cfg),
        midway,
        Preemption(agreement, midway),
    ]


def _own_callbacks(cfg: RunConfig) -> list[Callback]:
    """The user's, built from the config. ValueError: something else than a Lightning callback."""
    built = []
    for place, asked in enumerate(cfg.callbacks):
        callback = build(asked, cfg.trusted_packages, f"callbacks.{place}")
        if not isinstance(callback, Callback):
            raise ValueError(
                f"callbacks.{place}._target_={asked['_target_']}: gave a "
                f"{type(callback).__name__}, expected a lightning.Callback"
            )
        built.append(callback)
    return built
