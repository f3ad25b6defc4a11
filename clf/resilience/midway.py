"""`last.ckpt` within an epoch: every so many steps or minutes, and when the run is asked to leave.

It holds all that the rest of the epoch depends on. Whether one was written changes no bit of what
comes after it.
"""

import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from clf.atomic import Unwritten
from clf.config import CheckpointConfig
from clf.parallel import lightning_internals as internals
from clf.resilience.agreement import Agreement
from clf.resilience.saving import WITHIN_EPOCH, BackgroundCheckpointIO


class Alarm:
    """Asks for a save once `seconds` have passed since it was set."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.is_read = seconds, False
        self.set()

    def set(self) -> None:
        self._due = time.monotonic() + self.seconds

    @property
    def signal(self) -> str | None:
        """A text when it is time, as `StopRequest` has after a signal."""
        return "checkpoint.every_minutes" if time.monotonic() >= self._due else None


class SaveMidway(Callback):
    """Saves after a step of the optimizer that is not the last one of its epoch.

    All ranks save after the same step. The clocks of the ranks may differ, so for a save by the
    minute they agree on the step as they do to leave (`Agreement`), while they go on training.

    Args:
        path: the file that the next start goes on from
    """

    def __init__(self, cfg: CheckpointConfig, path: Path) -> None:
        self.every_steps, self.path = cfg.every_steps, path
        self._alarm = Alarm(cfg.every_minutes * 60) if cfg.every_minutes is not None else None
        self._agreement: Agreement | None = None
        self._saving = False
        self._step = 0  # optimizer steps that have been seen

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._set_alarm()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        by_time = self._agreement is not None and self._agreement.reached()
        if not internals.ends_a_step(trainer) or internals.ends_an_epoch(trainer):
            return
        by_steps = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        if by_time or by_steps and trainer.global_step > self._step:
            internals.log_step_now(trainer)
            self.save(trainer)
        if by_time:
            self._set_alarm()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restart_alarm()  # `last.ckpt` is written now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if missing := unwritten(trainer):  # the same error on all ranks
            raise Unwritten(missing, self.path.parents[1])

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def save(self, trainer: Trainer) -> None:
        """Save now; all ranks must call it. The file is there once its writer has been waited
        for."""
        self._saving = True
        try:
            trainer.save_checkpoint(self.path)
        finally:
            self._saving = False
        self._restart_alarm()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if not self._saving:
            return
        checkpoint[WITHIN_EPOCH] = pl_module.metrics("train").state_over_ranks()
        if trainer.validating:
            internals.let_validation_start_over(checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        if WITHIN_EPOCH in checkpoint and trainer.state.fn == "fit":
            pl_module.metrics("train").resume_from(checkpoint[WITHIN_EPOCH], trainer.global_rank)

    def _restart_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.set()

    def _set_alarm(self) -> None:
        self._close()
        if self._alarm is not None:
            self._alarm.set()
            self._agreement = Agreement(self._alarm)
            self._agreement.connect()

    def _close(self) -> None:
        if self._agreement is not None:
            self._agreement.close()
        self._agreement = None


def unwritten(trainer: Trainer) -> dict[Path, str]:
    """Wait on all ranks until all checkpoints are written; path -> why not, of those that cannot
    be."""
    writer = trainer.strategy.checkpoint_io
    missing = writer.wait() if isinstance(writer, BackgroundCheckpointIO) else {}
    found: dict[Path, str] = trainer.strategy.broadcast(missing)
    return found
