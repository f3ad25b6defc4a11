"""What a run reports of its training steps: images per second, the share of the time that it waits
for images, memory, and the norm of the gradient. Nothing here adds a collective to a step; the host
waits for the device only in a step whose numbers are logged, where Lightning's own scalars wait
too.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from clf.atomic import say
from clf.config import DataConfig
from clf.tracking.bounds import Speed, advice


class Throughput(Callback):
    """Logs, over the wall time between two log lines, train/images_per_second of all ranks and
    train/waiting_share, the share of that time that rank 0 spent waiting for its loader; and
    train/images_per_second_average of this start, and the most memory that rank 0 has had:
    train/gpu_memory_gib of torch on its GPU, or train/process_memory_gib of its process.

    It counts optimizer steps by the host's clock. The device may be a few steps behind, which
    evens out over a window; waiting for it would slow the training down. A loader that does not
    count its seconds in `waited_s`, as that of ClassificationDataModule does, has no waiting share.

    Where an epoch waits much for its data, rank 0 says once what to set (`clf.tracking.bounds`).

    Args:
        batch_size: images of an optimizer step over all ranks
        data: of the run; None: nothing is said
        cores: that this rank has
    """

    def __init__(self, batch_size: int, data: DataConfig | None = None, cores: int = 1) -> None:
        self.batch_size, self.data, self.cores = batch_size, data, cores
        self.speed = Speed()
        self._window = Window()  # of the time since the log line before
        self._epoch, self._start = Spent(), Spent()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_window(trainer)  # a run resumed in mid-epoch has no on_train_epoch_start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch = Spent()
        self._begin_window(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_window(trainer)  # evaluation is not training time

    def _begin_window(self, trainer: Trainer) -> None:
        waited_s = _waited_s(trainer) or 0.0
        self._window = Window(
            time.perf_counter(), time.process_time(), trainer.global_step, waited_s
        )

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        begun = self._window
        steps = trainer.global_step - begun.steps
        if not steps or not _is_logged(trainer, trainer.global_step):
            return
        seconds, waited_s = time.perf_counter() - begun.wall_s, _waited_s(trainer)
        now = steps * self.batch_size / seconds
        scalars = {"train/images_per_second": now}
        if waited_s is not None:
            waited_s -= begun.waited_s
            scalars["train/waiting_share"] = min(1.0, waited_s / seconds)
        cpu_s = time.process_time() - begun.cpu_s
        for spent in (self._epoch, self._start):
            spent.add(seconds, cpu_s, steps, waited_s)
        self.speed = replace(
            self.speed,
            now=now,
            average=self._start.steps * self.batch_size / self._start.wall_s,
            waiting_share=self._epoch.waiting_share,
            **_memory(trainer.strategy.root_device),
        )
        scalars["train/images_per_second_average"] = self.speed.average
        scalars[f"train/{self.speed.memory_of.lower()}_memory_gib"] = self.speed.memory_gib
        self._begin_window(trainer)
        log_scalars(trainer, scalars)
        if trainer.is_last_batch:
            self._advise(trainer)

    def _advise(self, trainer: Trainer) -> None:
        """Rank 0 says what to set, once."""
        epoch = self._epoch
        if self.speed.advice or not self.data or not trainer.is_global_zero:
            return
        if epoch.waiting_share is not None:
            busy = epoch.cpu_s / (epoch.wall_s * self.cores)
            found = advice(epoch.waiting_share, epoch.waited_s, self.data, self.cores, busy)
            self.speed = replace(self.speed, advice=found)
            if found:
                say(f"note: {found}")


@dataclass(frozen=True)
class Window:
    """Where a stretch of training began: seconds of the clock and of the processor, optimizer
    steps, seconds that the loader has been waited for."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    steps: int = 0
    waited_s: float = 0.0


@dataclass
class Spent:
    """Sums over such stretches."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    steps: int = 0
    waited_s: float = 0.0
    waiting_share: float | None = None  # None: the loader does not count

    def add(self, wall_s: float, cpu_s: float, steps: int, waited_s: float | None) -> None:
        self.wall_s, self.cpu_s = self.wall_s + wall_s, self.cpu_s + cpu_s
        self.steps += steps
        if waited_s is not None:
            self.waited_s += waited_s
            self.waiting_share = min(1.0, self.waited_s / self.wall_s)


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


def _memory(device: torch.device) -> dict[str, Any]:
    """The most that this rank has had, in GiB, and of what; the host's own counts, so that nothing
    waits for the device."""
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device)
        return {"memory_gib": used / 2**30, "memory_of": "GPU"}
    unit = 1 if sys.platform == "darwin" else 2**10
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"memory_gib": used / 2**30, "memory_of": "process"}
