"""What a run reports of its evaluations and of itself: per-class tables and status.json.

Only rank 0 writes. Nothing here waits for the device within a training step.

N nodes, C classes.
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from clf.config.faults import printable
from clf.metrics.measures import SPLITS
from clf.resilience.bad_steps import RollBack
from clf.resilience.processes import this_process
from clf.resilience.signals import Preempted, Stopped
from clf.run_folder import RunFolder
from clf.tracking.early_stopping import why_stopped
from clf.tracking.epochs import epoch_number, speed_of
from clf.tracking.nodes import departing_nodes, node_name
from clf.tracking.steps import step_of_scalars
from clf.tracking.tables import PerClassRow, read_csv, rows_from_counts, write_csv
from clf.tracking.wandb_run import GuardedWandbLogger


class PerClassTables(Callback):
    """After each evaluation: per_class/<split>.csv, during training val_epoch<NNN>.csv as well, and
    the table `<split>/per_class` in W&B.

    The counts come from the model's `per_class_counts(split) -> (support_NC, correct_NC,
    predicted_C)`, int64 on the CPU, summed over ranks; the names from the datamodule's `classes`,
    in label order. Lightning calls a callback's on_*_epoch_end before the model's, which computes
    the counts. So this callback uses on_*_end.

    Args:
        class_scalars: also log val/acc_class/<name>
    """

    def __init__(self, folder: RunFolder, class_scalars: bool = False) -> None:
        self.folder, self.class_scalars = folder, class_scalars
        self.nodes: list[str] = []
        self._last: tuple[Path, list[PerClassRow]] | None = None  # the newest table of an epoch

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.num_nodes > 1 and not self.nodes:
            self.nodes = _node_names(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Any, pl_module: Any, split: str) -> None:
        if not trainer.is_global_zero:
            return
        support_NC, correct_NC, predicted_C = pl_module.per_class_counts(split)
        classes = trainer.datamodule.classes
        rows = rows_from_counts(classes, support_NC, correct_NC, predicted_C, self.nodes)
        departing = departing_nodes(support_NC.numpy(), correct_NC.numpy(), self.nodes)
        for node, sentence in departing.items():
            rank_zero_warn(f"{split}: {sentence}")
            self.folder.record_departure(node, split, epoch_number(trainer))
        self._save(rows, self.folder.per_class / f"{split}.csv")
        before = None
        if trainer.state.fn == "fit":
            number = epoch_number(trainer)
            before = self._of_epoch(split, number - 1)
            path = self.folder.epoch_table(split, number)
            self._save(rows, path)
            self._last = path, rows
        epoch, step = trainer.current_epoch, step_of_scalars(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, GuardedWandbLogger):
                logger.log_per_class(f"{split}/per_class", rows, epoch, step, before)
            if self.class_scalars:
                logger.log_metrics(_class_scalars(rows, split) | {"epoch": epoch}, step)

    def _save(self, rows: list[PerClassRow], path: Path) -> None:
        self.folder.writer.write(path, lambda: write_csv(rows, path), keep=True)

    def _of_epoch(self, split: str, number: int) -> list[PerClassRow]:
        """The table of an epoch, [] if there is none: from the disk if an earlier start has written
        it."""
        path = self.folder.epoch_table(split, number)
        if self._last and self._last[0] == path:
            return self._last[1]
        return read_csv(path) if path.exists() else []


class StatusFile(Callback):
    """status.json: what the run is doing, at most once a second and at the ends of epochs.

    Fields: state (running; preempted, or stopped if that was by Ctrl-C; failed; finished, once the
    evaluation that ends a run is done), signal (that asked it to leave, or None), run, host, pid
    and process_began (which tell the process from a later one of that number), device, epoch and
    step (completed so far), epochs and steps (in all), speed (`clf.tracking.bounds.Speed`),
    metrics (the latest of each name), checkpoint (the newest that is on the disk:
    `BackgroundCheckpointIO.saved`), stopped_early (why, or None), eta_s (of the training), started
    and updated (seconds since 1970),
    error, wandb (page, or folder to sync; None without W&B) and wandb_id, not_written (file -> why
    the disk has not taken it), began and left (completed epochs, step, batch within the epoch,
    learning_rate: where this start began to train, and where it was asked to leave).

    What a full disk did not take, of this and of other files, is tried again here.
    """

    EVERY_S = 1.0
    RETRY_S = 10.0

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.started = time.time()
        self.metrics: dict[str, float] = {}
        self._written = 0.0  # seconds of the monotonic clock
        self._begun: tuple[float, int] | None = None  # (seconds, steps) when training began
        self._constant: dict[str, Any] = {}
        self._stopped_early: str | None = None
        self._retried = 0.0  # seconds of the monotonic clock

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        loggers = [one for one in trainer.loggers if isinstance(one, GuardedWandbLogger)]
        self._constant = {
            "signal": None,
            "device": _device_name(trainer),
            "wandb": loggers[0].location if loggers else None,
            "wandb_id": loggers[0].version if loggers else None,
        }
        self._write(trainer, "running")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = (time.time(), trainer.global_step)
        self._constant["began"] = _place(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._write_if_due(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._write_if_due(trainer)

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._write_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._take(trainer.callback_metrics)
            self._write(trainer, "running")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take(trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Now: the final evaluation gives all callbacks the state that the best checkpoint holds.
        self._stopped_early = why_stopped(trainer)
        self._take(trainer.callback_metrics)
        self._write(trainer, "running")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":  # a fit is followed by the evaluation of its best checkpoint
            self._write(trainer, "finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, Preempted):
            self._constant["left"] = _place(trainer) if trainer.state.fn == "fit" else None
            self._constant["signal"] = exception.signal
            self._write(trainer, "stopped" if exception.signal == "SIGINT" else "preempted")
        elif isinstance(exception, RollBack):  # this process goes on at once
            self._write(trainer, "running")
        elif isinstance(exception, Stopped | KeyboardInterrupt):
            self._constant["signal"] = getattr(exception, "signal", "SIGINT")
            self._write(trainer, "stopped")
        else:
            self._write(trainer, "failed", f"{type(exception).__name__}: {exception}".rstrip(": "))

    def _take(self, metrics: Mapping[str, Any]) -> None:
        """This waits for the device, so it is for the ends of epochs only."""
        self.metrics |= {
            name: float(value)
            for name, value in metrics.items()
            if name.startswith(tuple(f"{split}/" for split in SPLITS))
            and not name.endswith("_step")
        }

    def _write_if_due(self, trainer: Trainer) -> None:
        if time.monotonic() - self._written >= self.EVERY_S:
            self._write(trainer, "running")

    def _write(self, trainer: Trainer, state: str, error: str | None = None) -> None:
        if not trainer.is_global_zero:
            return
        self._written, writer = time.monotonic(), self.folder.writer
        if writer.missing and (state != "running" or self._written - self._retried > self.RETRY_S):
            self._retried = self._written
            writer.retry()
        self.folder.keep_json(self.folder.status, self._content(trainer, state, error))

    def _content(self, trainer: Trainer, state: str, error: str | None) -> dict[str, Any]:
        now, step = time.time(), trainer.global_step
        steps = _total_steps(trainer, self._constant.get("began"))
        eta_s = None
        if self._begun and steps and step > self._begun[1]:
            eta_s = (now - self._begun[0]) / (step - self._begun[1]) * (steps - step)
        return {
            "state": state,
            "run": self.folder.path.name,
            **self._constant,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_began": this_process().began,
            "epoch": trainer.current_epoch,
            "epochs": trainer.max_epochs,
            "step": step,
            "steps": steps,
            "speed": asdict(speed_of(trainer)),
            "metrics": self.metrics,
            "checkpoint": getattr(trainer.strategy.checkpoint_io, "saved", None),
            "stopped_early": self._stopped_early,
            "eta_s": eta_s,
            "started": self.started,
            "updated": now,
            "not_written": self._not_written(),
            "error": error,
        }

    def _not_written(self) -> dict[str, str]:
        folder, status = self.folder.path, self.folder.status
        missing = list(self.folder.writer.missing.items())  # other threads write too
        return {os.path.relpath(path, folder): why for path, why in missing if path != status}


def _class_scalars(rows: list[PerClassRow], split: str) -> dict[str, float]:
    pairs = ((f"{split}/acc_class/{printable(row.name)}", row.accuracy) for row in rows)
    return {name: accuracy for name, accuracy in pairs if accuracy is not None}


def _node_names(trainer: Trainer) -> list[str]:
    """A name for each node, in order of node rank; one gather of short texts at the start."""
    name = node_name()
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, (trainer.node_rank, name))
    names = dict(sorted(found))
    if len(set(names.values())) == len(names):
        return list(names.values())
    return [f"{name}-{rank}" for rank, name in names.items()]


def _place(trainer: Any) -> dict[str, Any]:
    """The place in the training that a run which goes on must find again."""
    loader = trainer.train_dataloader  # a plain DataLoader does not know its place
    return {
        "epoch": trainer.current_epoch,
        "step": trainer.global_step,
        "batch": loader.state_dict()["batches"] if hasattr(loader, "state_dict") else None,
        "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
    }


def _total_steps(trainer: Trainer, began: dict[str, Any] | None) -> int | None:
    """Optimizer steps of the whole run, if its length is known.

    Args:
        began: the place at which this start began, if training has; the epochs before it may have
            had another number of steps, with another batch size
    """
    batches = trainer.num_training_batches
    if batches in (0, float("inf")) or not trainer.max_epochs:
        return None
    per_epoch = -(-int(batches) // trainer.accumulate_grad_batches)
    if began and began["batch"] == 0:
        return began["step"] + per_epoch * (trainer.max_epochs - began["epoch"])
    return per_epoch * trainer.max_epochs


def _device_name(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name
