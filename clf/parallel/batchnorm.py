"""BatchNorm's running statistics depend on the images of the steps alone, on any number of ranks.

A: micro-batches that each rank accumulates in a step; W: ranks.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from clf.parallel.lightning_internals import is_batchnorm


class AgreeOnBatchNorm(Callback):
    """Averages the running statistics over all ranks before each evaluation and each checkpoint, so
    that every rank evaluates, and saves, the same model. While it trains, each rank has its own.

    DDP would send rank 0's statistics to all ranks in every step, and DeepSpeed would never do so.
    The mean takes all data into account and costs one all-reduce where it is needed. Running
    statistics are linear in those of the batches, so the mean may be taken at any time: a run that
    is saved in mid-epoch and resumed ends with the same statistics.

    Within a step each of the A micro-batches has the weight m/A, and the statistics from before the
    step have 1 - m, where m is the layer's momentum. So a step moves the statistics by m towards
    the mean of its A x W micro-batches, however these are spread over ranks. Torch alone would
    move them A times.
    """

    def __init__(self) -> None:
        self._norms: list[Any] = []
        self._differ: dict[int, Any] = {}  # BatchNorm layers, by id, that moved since then
        self._momenta: list[tuple[Any, float]] = []  # each BatchNorm layer with its own momentum

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._norms = [m for m in pl_module.modules() if is_batchnorm(m)]
        self._momenta = [(m, m.momentum) for m in self._norms if m.momentum is not None]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        A = trainer.accumulate_grad_batches
        if A > 1:
            done = batch_idx % A  # micro-batches of this step before this one
            for norm, m in self._momenta:
                norm.momentum = m / (A * (1 - m) + (done + 1) * m)

    def on_train_batch_end(self, *args: Any) -> None:
        # Not frozen ones: the mean of equal numbers may be another one in its last bit.
        self._differ.update((id(norm), norm) for norm in self._norms if norm.training)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for norm, m in self._momenta:
            norm.momentum = m

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._agree()
        for name, buffer in pl_module.named_buffers():
            if name in checkpoint["state_dict"]:  # Lightning filled it before this hook
                checkpoint["state_dict"][name] = buffer.detach()

    def _agree(self) -> None:
        if self._differ:
            average_over_ranks([b for norm in self._differ.values() for b in statistics(norm)])
        self._differ = {}


def statistics(module: nn.Module) -> list[Tensor]:
    """The running mean and variance of every BatchNorm."""
    norms: list[Any] = [m for m in module.modules() if is_batchnorm(m)]
    return [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]


def average_over_ranks(buffers: list[Tensor]) -> None:
    """Replace each buffer by its mean over all ranks, in one all-reduce. Without a process group
    this does nothing."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized() and buffers):
        return
    flat = torch.cat([b.flatten() for b in buffers])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))


def check_one_image(network: nn.Module, forward: Callable[[], None], size: int) -> list[str]:
    """For a run in which BatchNorm sees one image at a time.

    Args:
        forward: passes one image through the network
        size: its pixels a side

    Returns:
        notes for the user

    Raises:
        ValueError: a layer would normalise a single number a channel, which gives zeros: torch
            refuses it in the first step
    """
    values: dict[str, int] = {}

    def count(name: str, images: Tensor) -> None:
        values[name] = images.numel() // images.shape[1]

    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: count(name, given[0]))
        for name, layer in network.named_modules()
        if is_batchnorm(layer)
    ]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    remedy = (
        "give each forward pass 2 images or more (data.micro_batch_size, data.batch_size), or on "
        "several devices set strategy.sync_batchnorm=true"
    )
    if single := [name for name, count in values.items() if count == 1]:
        raise ValueError(
            f"data.micro_batch_size=1: the BatchNorm layer {single[0]} would normalise a single "
            f"number of each channel, since images of {size} pixels are one pixel there; {remedy}"
        )
    if not values:
        return []
    return [f"data.micro_batch_size=1: BatchNorm normalises each image by itself; {remedy}"]
