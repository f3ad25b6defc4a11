"""What a run reports of its training steps: images per second, the share of the time that it waits
for images, and the norm of the gradient. Nothing here adds a collective to a step; the host waits
for the device only in a step whose numbers are logged, where Lightning's own scalars wait too.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class Throughput(Callback):
    """Logs train/images_per_second, all ranks' images over the wall time between two log lines, and
    train/waiting_share, the share of that time that rank 0 spent waiting for its loader.

    It counts optimizer steps by the host's clock. The device may be a few steps behind, which
    evens out over a window; waiting for it would slow the training down. A loader that does not
    count its seconds in `waited_s`, as that of ClassificationDataModule does, has no waiting share.

    Args:
        batch_size: images of an optimizer step over all ranks
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.images_per_second: float | None = None
        self._window = (0.0, 0, 0.0)  # (seconds, optimizer steps, seconds waited) at its start

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_window(trainer)  # a run resumed in mid-epoch has no on_train_epoch_start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_window(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_window(trainer)  # evaluation is not training time

    def _begin_window(self, trainer: Trainer) -> None:
        self._window = (time.perf_counter(), trainer.global_step, _waited_s(trainer) or 0.0)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        start, first, waited_before = self._window
        steps = trainer.global_step - first
        if not steps or not _is_logged(trainer, trainer.global_step):
            return
        seconds, waited = time.perf_counter() - start, _waited_s(trainer)
        self.images_per_second = steps * self.batch_size / seconds
        scalars = {"train/images_per_second": self.images_per_second}
        if waited is not None:
            scalars["train/waiting_share"] = min(1.0, (waited - waited_before) / seconds)
        self._begin_window(trainer)
        log_scalars(trainer, scalars)


class GradientNorm(Callback):
    """Logs train/grad_norm: the L2 norm of the whole gradient of an optimizer step, as averaged
    over ranks and accumulated micro-batches, before it is clipped.

    Args:
        norm: gives it; None: there was no gradient
    """

    def __init__(self, norm: Callable[[Trainer], Any]) -> None:
        self.norm = norm
        self._is_due = False  # since the optimizer's last step

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._is_due = trainer.is_global_zero and _is_logged(trainer, trainer.global_step + 1)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if not self._is_due:
            return
        self._is_due = False
        if (norm := self.norm(trainer)) is not None:
            log_scalars(trainer, {"train/grad_norm": float(norm)})


def log_scalars(trainer: Any, scalars: Mapping[str, float]) -> None:
    """Add to the row that Lightning's own scalars of this moment go to."""
    for logger in trainer.loggers:
        logger.log_metrics({**scalars, "epoch": trainer.current_epoch}, step_of_scalars(trainer))


def step_of_scalars(trainer: Trainer) -> int:
    """The step that Lightning gives its own scalars at this moment: within the fit the last
    optimizer step, counted from 0; after the fit the number of steps."""
    return max(0, trainer.global_step - int(trainer.state.fn == "fit"))


def _is_logged(trainer: Any, steps: int) -> bool:
    """Whether the optimizer step that completes so many is logged: those of Lightning's own
    scalars, so that they share a row, and the last one of an epoch."""
    return steps % trainer.log_every_n_steps == 0 or trainer.is_last_batch


def _waited_s(trainer: Any) -> float | None:
    """Seconds that this rank has waited for its training loader; None: it does not count them."""
    return getattr(trainer.train_dataloader, "waited_s", None)
