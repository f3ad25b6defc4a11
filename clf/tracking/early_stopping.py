"""Early stopping that says that it stopped and why: in the log, in status.json and at the end of
what the command prints."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from clf.metrics.declared import check_logged
from clf.metrics.measures import NOTHING, direction, logged_as, shown


class StopEarly(EarlyStopping):
    """Lightning's EarlyStopping, which does not train a run on that had stopped before its restart.

    Args:
        monitor: name of a logged number, such as "val/acc_top1"
        min_delta: the least change that counts as better
        patience: epochs without a better value after which the training stops
        declared: numbers that the model logs itself, each with what is best ("max" or "min")
    """

    def __init__(
        self, monitor: str, min_delta: float, patience: int, declared: Mapping[str, str] = NOTHING
    ) -> None:
        mode = direction(monitor, declared)
        super().__init__(logged_as(monitor), min_delta, patience, mode=mode)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_logged(self.monitor, trainer.callback_metrics)
        super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The patience may have been changed since the checkpoint was written.
        super().load_state_dict({**state_dict, "patience": self.patience})
        if self.wait_count < self.patience:
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True  # all that was left to do is the final evaluation

    def reason(self, max_epochs: int | None) -> str | None:
        """Why the training stopped, or None if it did not stop early."""
        if self.stopping_reason == EarlyStoppingReason.NOT_STOPPED:
            return None
        number = self.stopped_epoch + 1  # Lightning counts from 0
        start = f"stopped early after epoch {number} of {max_epochs}: "
        if self.stopping_reason != EarlyStoppingReason.PATIENCE_EXHAUSTED:
            return start + (self.stopping_reason_message or self.stopping_reason.name)
        best, epochs = shown(self.monitor, float(self.best_score)), self.patience
        settings = f"early_stopping.patience={epochs}"
        if self.min_delta:  # Lightning keeps it with the sign of the direction
            settings += f", early_stopping.min_delta={abs(self.min_delta):g}"
        return (
            f"{start}{self.monitor} has not become better than {best} for "
            f"{epochs} epoch{'' if epochs == 1 else 's'} ({settings})"
        )


def why_stopped(trainer: Any) -> str | None:
    """Why the run of a trainer stopped early, or None if it did not."""
    stops = [callback for callback in trainer.callbacks if isinstance(callback, StopEarly)]
    reasons = [stop.reason(trainer.max_epochs) for stop in stops]
    return next((reason for reason in reasons if reason), None)
