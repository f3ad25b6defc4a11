"""A run, from config to numbers: `fit` trains and tests; `evaluate`, of `clf.scoring`, scores a
checkpoint. Read this first.

YAML -> RunConfig (compose) -> fit -> batches (data) -> logits, loss (models) -> counts (metrics)
     -> one sync an epoch -> scalars and per-class tables (tracking) -> run folder and W&B
"""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer, seed_everything
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_warn

from clf.atomic import Unwritten, private_files, remove_unfinished, say
from clf.callbacks import callbacks
from clf.config import RunConfig
from clf.config.weights import is_file
from clf.data.datamodule import ClassificationDataModule
from clf.data.label_errors import fingerprints, is_recorded, record_trained_on
from clf.data.sampler import micro_batch_size
from clf.metrics.measures import line
from clf.models.base import BaseClassificationModel
from clf.models.build import build_model, check_size, look_at_one_image
from clf.models.mix import mixer
from clf.parallel.batchnorm import check_one_image
from clf.parallel.lightning_internals import (
    check_lightning,
    quiet_lightning,
    remove_sigterm_broadcast,
)
from clf.parallel.micro_batch import FindMicroBatch
from clf.parallel.strategies import on_nodes_here, trainer_arguments, world_size
from clf.resilience.agreement import Agreement
from clf.resilience.anew import from_its_weights
from clf.resilience.bad_loss import read_left_out
from clf.resilience.bad_steps import RollBack
from clf.resilience.checkpoint import (
    RECORD,
    read_checkpoint,
)
from clf.resilience.own import check_own, run_id
from clf.resilience.saving import BackgroundCheckpointIO
from clf.resilience.signals import Preempted, StopRequest, held
from clf.resilience.whole import best_or_last, newest_whole
from clf.run_folder import RunFolder, read_commit
from clf.scoring import evaluate
from clf.tracking.csv_logger import CsvLogger
from clf.tracking.pictures import write_data, write_environment
from clf.tracking.predictions import KeepPredictions
from clf.tracking.wandb_run import GuardedWandbLogger, close, wandb_logger

__all__ = ["evaluate", "fit"]


@private_files()  # of the run folder, one by one: configs, logs and pictures are nobody else's
def fit(
    cfg: RunConfig,
    run_dir: Path,
    progress: bool = True,
    request: StopRequest | None = None,
    job: str | None = None,
) -> dict[str, float]:
    """Train, then test the best checkpoint. Goes on from `run_dir/checkpoints/last.ckpt` if there
    is one.

    Args:
        cfg: a checked config, as `clf.plan.compose` gives it
        run_dir: everything the run leaves is in here
        progress: show a progress bar; False: a line an epoch
        request: whether the run was asked to leave early; None: it never is
        job: the number of the job that this is a start of, for W&B; None: it is in none

    Returns:
        the last epoch's and the final evaluation's scalars, by name (`val/acc_top1`, `test/loss`,
        ...)

    Raises:
        Preempted: asked to leave; on all ranks at the same step, with `last.ckpt` written
        Unwritten: it is trained, but the disk has not taken all of its files; without its
            checkpoints it is not tested
    """
    folder, agreement = RunFolder.create(run_dir), Agreement(request or StopRequest())
    try:
        scalars = _fit(cfg, folder, progress, agreement, job)
    except BaseException as leaving:
        lacking = folder.writer.lacking(folder.path)
        if isinstance(leaving, Unwritten):  # of the checkpoints alone
            raise lacking or leaving from None
        if lacking:
            say(f"clf: {lacking}")
        if isinstance(leaving, Preempted):
            agreement.leave_together()
        raise
    finally:
        agreement.close()
    if lacking := folder.writer.lacking(folder.path):
        for split in ("val", "test"):
            say(f"{split} {line(scalars, split)}")
        raise lacking
    return scalars


def _fit(
    cfg: RunConfig, folder: RunFolder, progress: bool, agreement: Agreement, job: str | None
) -> dict[str, float]:
    model, datamodule, trainer = _trained(cfg, folder, progress, agreement, job)
    scalars = _scalars(trainer)
    if cfg.strategy.name.startswith("deepspeed"):  # the engine has sharded this model's weights
        model = build_model(cfg, datamodule.num_classes, pretrained=False)
    # The test split, or without one the validation images once more, with the best weights.
    final = trainer.test if len(datamodule.splits.test) else trainer.validate
    path, damaged = best_or_last(folder)
    if damaged and trainer.is_global_zero:
        _note(folder, [damaged])
    final(model, datamodule=datamodule, ckpt_path=path, weights_only=True, verbose=False)
    _log_end(cfg, folder, trainer)
    close(trainer.loggers)
    if cfg.report and trainer.is_global_zero:
        leave_report(folder)
    return scalars | _scalars(trainer)


def _trained(
    cfg: RunConfig, folder: RunFolder, progress: bool, agreement: Agreement, job: str | None
) -> tuple[BaseClassificationModel, ClassificationDataModule, Trainer]:
    """Train to the end, from the last good checkpoint again where on_bad_loss=rollback says so."""
    left_out = read_left_out(folder)
    while True:
        with held():  # processes that start here must not get the signals that this one waits for
            given = (cfg, folder, progress, agreement, job, left_out)
            model, datamodule, trainer, resume = _prepare(*given)
        try:
            trainer.fit(model, datamodule=datamodule, ckpt_path=resume, weights_only=True)
            return model, datamodule, trainer
        except RollBack as back:
            left_out = back.left_out
            if trainer.is_global_zero:
                folder.keep_json(folder.left_out, {"steps": left_out})
                say(f"clf: {back.sentence}. Going back, and leaving this step out")
            close(trainer.loggers)


def leave_report(folder: RunFolder) -> None:
    """Write the run's report. Whatever goes wrong with it must not spoil a run that has trained."""
    try:
        from clf.report import write_report  # plotly and matplotlib

        say(f"report: {write_report(folder.path)}")
    except Exception as problem:
        again = f"python launch/report.py {folder.path} writes it again"
        rank_zero_warn(f"no report was written ({type(problem).__name__}: {problem}); {again}")


def _prepare(
    cfg: RunConfig,
    folder: RunFolder,
    progress: bool,
    agreement: Agreement,
    job: str | None,
    left_out: list[int],
) -> tuple[BaseClassificationModel, ClassificationDataModule, Trainer, Path | None]:
    """Everything that a run needs, and the checkpoint that it goes on from."""
    resume, of_resume = newest_whole(folder)
    asked, cfg = cfg.nodes, on_nodes_here(cfg)
    cfg, search = _micro_batch(cfg, resume)
    quiet_lightning()
    seed_everything(cfg.seed, verbose=False)
    datamodule = ClassificationDataModule(
        cfg.data,
        cfg.seed,
        cfg.trusted_packages,
        folder.bad_images,
        folder.writer,
        folder.data_index,
    )
    datamodule.prepare_data()
    datamodule.setup("fit")
    if resume is not None:
        record = read_checkpoint(resume)[RECORD]
        of_resume += check_own(record, resume, folder, cfg)
        datamodule.number_like(record["class_to_idx"], resume)
    folder.keep_json(folder.labels_mapping, datamodule.class_to_idx)
    begun = from_its_weights(cfg, folder, resume, datamodule.classes)
    model = _model(begun, datamodule, resume)
    notes = [
        *of_resume,
        *datamodule.splits.notes,
        *_weights_notes(begun, model, resume),
        *_batchnorm_notes(cfg, model),
    ]
    trainer = Trainer(
        max_epochs=cfg.epochs,
        accumulate_grad_batches=datamodule.accumulation(world_size(cfg)),
        logger=_loggers(cfg, folder, {"job_id": job, "nodes_asked": asked}),
        callbacks=callbacks(cfg, folder, datamodule, progress, agreement, search, left_out),
        log_every_n_steps=cfg.tracking.log_every,
        **_common(cfg, folder, progress),
        **trainer_arguments(cfg),
    )
    check_lightning(trainer)
    remove_sigterm_broadcast(trainer)
    if trainer.is_global_zero:
        remove_unfinished(folder.path)
        run_id(folder)
        _note(folder, notes)
        _record_data(cfg, folder, datamodule)
        write_environment(folder)
    return model, datamodule, trainer, resume


def _model(
    cfg: RunConfig, datamodule: ClassificationDataModule, resume: Path | None
) -> BaseClassificationModel:
    """The model as it begins, or as the checkpoint `resume` will fill it; it knows the classes."""
    model = build_model(cfg, datamodule.num_classes, pretrained=resume is None)
    if cfg.model.weights_head and resume is None:
        model.take_head(datamodule.classes)
    if cfg.data.start_size is not None:
        check_size(model, cfg.data.start_size)
    if weights := datamodule.class_weights():
        model.set_class_weights(weights)
    datamodule.check_weighted(model.class_weights.tolist())
    model.set_class_shares(datamodule.class_shares())
    model.mix = mixer(cfg, world_size(cfg))
    return model


def _record_data(cfg: RunConfig, folder: RunFolder, datamodule: ClassificationDataModule) -> None:
    """Write what the run is trained on. A tar file's images are seen here for the first time."""
    if not is_recorded(folder.trained_on, folder.data_index):
        train = datamodule.splits.train
        trained_on = fingerprints(map(train.path, range(len(train))), datamodule.cfg)
        record = partial(record_trained_on, folder.trained_on, trained_on)
        folder.writer.write(folder.trained_on, record, keep=True)
    write_data(folder, str(cfg.data.origin or cfg.data.root or ""), datamodule.class_counts())


def _note(folder: RunFolder, notes: list[str]) -> None:
    for note in folder.add_notes(notes):
        say(f"note: {note}")


def _weights_notes(
    cfg: RunConfig, model: BaseClassificationModel, resume: Path | None
) -> list[str]:
    """What the model says of the file that it begins with."""
    if resume is None and is_file(cfg.model.weights) and not model.weights_report:
        return [
            f"model.weights={cfg.model.weights}: {cfg.model._target_} has a load_weights() of its "
            "own, and does not say whether it took the file; set self.weights_report there"
        ]
    return model.weights_report


def _batchnorm_notes(cfg: RunConfig, model: BaseClassificationModel) -> list[str]:
    """What a user should know of BatchNorm on single images; ValueError if it cannot be."""
    ranks = world_size(cfg)
    images = micro_batch_size(cfg.data, ranks)
    seen = images * ranks if cfg.strategy.sync_batchnorm else images
    if seen > 1 or cfg.model.freeze_epochs >= cfg.epochs:  # frozen, it keeps its statistics
        return []
    size = min(cfg.data.size, cfg.data.start_size or cfg.data.size)  # the smallest that train
    return check_one_image(model.network, lambda: look_at_one_image(model, size), size)


def _micro_batch(cfg: RunConfig, resume: Path | None) -> tuple[RunConfig, list[Callback]]:
    """For data.micro_batch_size=auto: the config without it, and the callback that finds the
    number. A run that goes on begins the search with the number that it had, so that it stays the
    same run."""
    if cfg.data.micro_batch_size != "auto":
        return cfg, []
    found = read_checkpoint(resume)[RECORD]["config"]["data"] if resume else {}
    search = FindMicroBatch(found.get("micro_batch_size"))
    return replace(cfg, data=replace(cfg.data, micro_batch_size=None)), [search]


def _common(cfg: RunConfig, folder: RunFolder, progress: bool) -> dict[str, Any]:
    limit = (
        {}
        if cfg.limit_batches is None
        else dict.fromkeys(
            ("limit_train_batches", "limit_val_batches", "limit_test_batches"), cfg.limit_batches
        )
    )
    return {
        "enable_progress_bar": progress,
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # ours are exact
        # Ranks and addresses come from the environment variables; Lightning's SLURM plugin would
        # also requeue.
        "plugins": [
            BackgroundCheckpointIO(
                cfg.checkpoint.keep_last, folder.writer, None if progress else say
            ),
            LightningEnvironment(),
        ],
        "detect_anomaly": cfg.debug,
        **limit,
    }


def _loggers(cfg: RunConfig, folder: RunFolder, job: dict[str, Any]) -> list[Any]:
    code = {f"git_{key}": value for key, value in read_commit(folder.path).items()}
    config = {**asdict(cfg), **code, **job}
    wandb = wandb_logger(cfg.tracking, folder, config, cfg.name or folder.path.name)
    return [CsvLogger(folder.metrics_csv, folder.writer), *([wandb] if wandb else [])]


def _log_end(cfg: RunConfig, folder: RunFolder, trainer: Any) -> None:
    """What W&B gets of a run that is done: charts of its last evaluation, and the checkpoints that
    were asked for."""
    kept = next(one for one in trainer.callbacks if isinstance(one, KeepPredictions)).predictions
    files = {"none": [], "best": [folder.best], "all": sorted(folder.checkpoints.glob("*.ckpt"))}
    for logger in trainer.loggers:
        if isinstance(logger, GuardedWandbLogger):
            if kept is not None:
                logger.log_evaluation(kept, folder.pictures_of(kept.split), trainer.global_step)
            if asked := files[cfg.tracking.checkpoints]:
                logger.log_checkpoints(asked)


def _scalars(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
