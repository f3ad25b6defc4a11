"""Learning-rate schedules by name: `model.schedule=cosine`, each after a linear warm-up.

Each is one function below; its keyword-only parameters are its settings, as `model.step_every`.
It moves every parameter group in proportion to the peak of that group.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from clf.config import register
from clf.config.about import About


@register(name="cosine", group="schedule")
def cosine(
    optimizer: Optimizer,
    steps: int,
    *,
    cosine_eta_min_factor: Annotated[float, About("last learning rate / peak", 0.0, 1.0)] = 0.01,
) -> LRScheduler:
    """Half a cosine from the peak down (Loshchilov and Hutter 2016, arXiv 1608.03983)."""
    return CosineOfEachGroup(optimizer, steps, cosine_eta_min_factor)


@register(name="linear", group="schedule")
def linear(
    optimizer: Optimizer,
    steps: int,
    *,
    linear_end_factor: Annotated[float, About("last learning rate / peak", 0.0, 1.0)] = 0.01,
) -> LRScheduler:
    """A straight line from the peak down."""
    return LinearLR(optimizer, 1.0, linear_end_factor, total_iters=steps)


@register(name="step", group="schedule")
def step(
    optimizer: Optimizer,
    steps: int,
    epochs: range,
    *,
    step_epochs: Annotated[
        list[int] | None, About("epochs of the run before which it falls: [30, 60, 80]", 1)
    ] = None,
    step_every: Annotated[int | None, About("epochs from one fall to the next", 1)] = None,
    step_factor: Annotated[float, About("what each fall multiplies it by", 0.0, 1.0)] = 0.1,
) -> LRScheduler:
    """The peak, which falls at the beginning of some epochs."""
    falls = step_epochs or range(0, epochs.stop, step_every or epochs.stop)
    per_epoch = steps // len(epochs)
    milestones = [(fall - epochs.start) * per_epoch for fall in falls if fall > epochs.start]
    return MultiStepLR(optimizer, milestones, gamma=step_factor)


@register(name="constant", group="schedule")
def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The peak, to the end."""
    return ConstantLR(optimizer, factor=1.0, total_iters=steps)


class CosineOfEachGroup(LRScheduler):
    """torch's `CosineAnnealingLR`, except that each group ends at the same share of its own peak.

    Its state has the same names, so that either can go on where the other was.

    Args:
        T_max: calls of `step()` until its end
        eta_min_factor: last learning rate / peak
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min_factor: float) -> None:
        self.T_max, self.eta_min_factor = T_max, eta_min_factor
        self.eta_min = eta_min_factor * optimizer.param_groups[0]["lr"]
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        factor = self.eta_min_factor + (1 - self.eta_min_factor) * share
        return [peak * factor for peak in self.base_lrs]


def with_warmup(
    optimizer: Optimizer,
    schedule: Callable[[Optimizer, int, range], LRScheduler],
    warmup: int,
    total: int,
    start_factor: float,
    per_epoch: int = 1,
) -> LRScheduler:
    """A linear warm-up, then the schedule: PyTorch's own `SequentialLR`.

    Args:
        schedule: makes a scheduler of an optimizer, a number of steps, and the epochs of the run
            that they are
        warmup, total: in calls of `scheduler.step()`, so optimizer steps or epochs; a short try of
            a long run may have a warm-up that is longer than the run, and no more than that
        start_factor: first learning rate / peak
        per_epoch: calls of `scheduler.step()` in an epoch
    """
    if warmup >= total:
        return LinearLR(optimizer, start_factor=start_factor, total_iters=warmup)
    epochs = range(warmup // per_epoch, total // per_epoch)
    after = schedule(optimizer, total - warmup, epochs)
    if warmup == 0:
        return after
    linear = LinearLR(optimizer, start_factor=start_factor, total_iters=warmup)
    return SequentialLR(optimizer, [linear, after], milestones=[warmup])
