"""Leave a run early and lose nothing: a signal sets a flag, the ranks agree on a step, and all of
them save together and leave with `Preempted`. Whoever started the job decides what comes next
(slurm/after.py)."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from clf.parallel import lightning_internals as internals
from clf.resilience.agreement import Agreement
from clf.resilience.midway import SaveMidway, unwritten
from clf.resilience.signals import Preempted


class LoaderPosition(Callback):
    """Restores the loader's position in the epoch when a run goes on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        internals.restore_loader_position(trainer)


class Preemption(Callback):
    """Stops the run at a boundary when it is asked to, and saves if there is something new.

    Args:
        agreement: tells where the ranks of this run stop
        midway: saves there
    """

    def __init__(self, agreement: Agreement, midway: SaveMidway) -> None:
        self.agreement, self.midway = agreement, midway

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.agreement.connect()
        internals.keep_own_signal_handlers(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        # Not while gradients are accumulated, and not after the last step of an epoch: Lightning
        # would skip the validation that follows, whose first batch is a boundary too.
        may_leave = internals.ends_a_step(trainer) and not internals.ends_an_epoch(trainer)
        if self.agreement.reached() and may_leave:
            internals.log_step_now(trainer)
            self._leave(trainer, pl_module, save=True)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any
    ) -> None:
        if self.agreement.reached():
            in_epoch = trainer.state.fn == "fit" and not trainer.sanity_checking
            self._leave(trainer, pl_module, save=in_epoch)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.agreement.reached():
            self._leave(trainer, pl_module, save=False)

    def _leave(self, trainer: Trainer, pl_module: LightningModule, save: bool) -> None:
        if save:
            self.midway.save(trainer)
        lost = "; ".join(f"{path.name}: {why}" for path, why in unwritten(trainer).items())
        for logger in trainer.loggers:
            if hasattr(logger, "mark_preempting"):
                logger.mark_preempting()
        signal = self.agreement.request.signal or "another rank's signal"
        raise Preempted(signal, trainer.current_epoch, trainer.global_step, lost)
