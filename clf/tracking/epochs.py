"""Epochs as people count them: the first one is 1 in the terminal, in metrics.csv, in the names of
files and in W&B. Lightning counts from 0 while it trains."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import Logger

from clf.atomic import say
from clf.metrics.measures import as_trained, line, percent
from clf.tracking.bounds import Speed, in_words
from clf.tracking.early_stopping import why_stopped


def epoch_number(trainer: Trainer) -> int:
    """The number of the epoch that a fit is in."""
    return trainer.current_epoch + 1


class CountsEpochsFromOne(Logger):
    """A logger that translates the epochs that Lightning and our callbacks give it.

    Within a fit Lightning gives the number of completed epochs, which is one less than the number
    of the epoch that runs. After the fit the same number is that of the last epoch.
    """

    fit_is_over = False

    def with_epoch_number(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        if "epoch" not in metrics or self.fit_is_over:
            return dict(metrics)
        return {**metrics, "epoch": metrics["epoch"] + 1}

    def finalize(self, status: str) -> None:
        """Lightning calls this with "success" at the end of the fit, before the evaluation."""
        self.fit_is_over |= status == "success"


class EpochLines(Callback):
    """A printed line for each epoch, which a log file shows instead of a progress bar.

    The training's own numbers are the last that an epoch computes, after the hooks of callbacks. So
    the line is printed when the next epoch starts, or the training ends.
    """

    def __init__(self) -> None:
        self._validated: int | None = None  # number of an epoch that has no line yet
        self._speed = Speed()  # at its end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._validated, self._speed = epoch_number(trainer), speed_of(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_line(trainer)
        if trainer.is_global_zero and (reason := why_stopped(trainer)):
            say(reason)

    def _print_line(self, trainer: Trainer) -> None:
        if self._validated is None or not trainer.is_global_zero:
            return
        scalars = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [
            f"epoch {self._validated:>3}/{trainer.max_epochs}",
            f"step {trainer.global_step}",
            f"val {line(scalars, 'val')}{as_trained(scalars)}",
            f"train loss {scalars['train/loss']:.4g}",
            *in_words(asdict(self._speed)),
        ]
        say("   ".join(parts))
        self._validated = None


class ProgressBar(RichProgressBar):
    """Lightning's bar, which shows `Epoch 1/10` for the first of ten epochs instead of `0/9`."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return text.ljust(len(self.validation_description))  # another length would flicker

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Those that the model shows, and how fast it is."""
        speed = speed_of(trainer)
        shown = {"images/s": speed.now and f"{speed.now:,.0f}"}
        if speed.waiting_share is not None:
            shown["waiting"] = percent(speed.waiting_share, digits=0)
        found = {name: text for name, text in shown.items() if text}
        return {**super().get_metrics(trainer, pl_module), **found}


def speed_of(trainer: Any) -> Speed:
    """What the callback that measures it has found so far."""
    found = (getattr(callback, "speed", None) for callback in trainer.callbacks)
    return next((speed for speed in found if isinstance(speed, Speed)), Speed())
