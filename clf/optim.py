"""AdamW's parameter groups, and the learning rate: linear warm-up, then a cosine."""

from collections.abc import Iterable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


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


def warmup_cosine(
    optimizer: Optimizer,
    warmup: int,
    total: int,
    start_factor: float,
    eta_min_factor: float,
) -> LRScheduler:
    """PyTorch's own `SequentialLR(LinearLR, CosineAnnealingLR)`.

    Args:
        warmup, total: in calls of `scheduler.step()`, so optimizer steps or epochs; 0 <= warmup <
        total
        start_factor: first learning rate / peak
        eta_min_factor: last learning rate / peak
    """
    if not 0 <= warmup < total:
        raise ValueError(f"warm-up must be shorter than the run: got {warmup} of {total} steps")
    peak = _only(group["lr"] for group in optimizer.param_groups)
    eta_min = peak * eta_min_factor
    if warmup == 0:
        return CosineAnnealingLR(optimizer, total, eta_min=eta_min)
    linear = LinearLR(optimizer, start_factor=start_factor, total_iters=warmup)
    cosine = CosineAnnealingLR(optimizer, total - warmup, eta_min=eta_min)
    return SequentialLR(optimizer, [linear, cosine], milestones=[warmup])


def _only(values: Iterable[float]) -> float:
    distinct = set(values)
    assert len(distinct) == 1, f"one learning rate for all groups, got {distinct}"
    return distinct.pop()
