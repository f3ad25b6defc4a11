"""Optimizers and learning-rate schedules by name: `model.optimizer=sgd`, `model.schedule=cosine`.

Each is one function below; its keyword-only parameters are its settings, as `model.momentum`.
"""

from collections.abc import Callable
from typing import Annotated

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from clf.config import register
from clf.config.about import About


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Decay matrices and kernels only: biases and normalisation scales have one dimension and are
    left alone.

    That is the usual recipe for convolutional networks (He et al., "Bag of Tricks",
    arXiv:1812.01187, section 3.1).
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


@register(name="adamw", group="optimizer")
def adamw(groups: list[dict], learning_rate: float) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101)."""
    return AdamW(groups, lr=learning_rate)


@register(name="sgd", group="optimizer")
def sgd(
    groups: list[dict],
    learning_rate: float,
    *,
    momentum: Annotated[float, About("share of the last direction that is kept", 0.0, 1.0)] = 0.9,
    nesterov: Annotated[bool, About("Nesterov's momentum")] = False,
) -> Optimizer:
    """Stochastic gradient descent.

    Raises:
        ValueError: Nesterov's momentum without momentum
    """
    if nesterov and momentum == 0:
        raise ValueError("model.nesterov=true: needs model.momentum above 0, such as 0.9")
    return SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov)


@register(name="cosine", group="schedule")
def cosine(
    optimizer: Optimizer,
    steps: int,
    *,
    cosine_eta_min_factor: Annotated[float, About("last learning rate / peak", 0.0, 1.0)] = 0.01,
) -> LRScheduler:
    """Half a cosine from the peak down (Loshchilov and Hutter 2016, arXiv 1608.03983).

    Args:
        steps: calls of `scheduler.step()` until its end
    """
    peak = optimizer.param_groups[0]["lr"]
    return CosineAnnealingLR(optimizer, steps, eta_min=peak * cosine_eta_min_factor)


def with_warmup(
    optimizer: Optimizer,
    schedule: Callable[[Optimizer, int], LRScheduler],
    warmup: int,
    total: int,
    start_factor: float,
) -> LRScheduler:
    """A linear warm-up, then the schedule: PyTorch's own `SequentialLR`.

    Args:
        schedule: makes a scheduler for an optimizer and a number of steps
        warmup, total: in calls of `scheduler.step()`, so optimizer steps or epochs; 0 <= warmup <
            total
        start_factor: first learning rate / peak

    Raises:
        ValueError: the warm-up is as long as the run
    """
    if not 0 <= warmup < total:
        raise ValueError(f"warm-up must be shorter than the run: got {warmup} of {total} steps")
    after = schedule(optimizer, total - warmup)
    if warmup == 0:
        return after
    linear = LinearLR(optimizer, start_factor=start_factor, total_iters=warmup)
    return SequentialLR(optimizer, [linear, after], milestones=[warmup])
