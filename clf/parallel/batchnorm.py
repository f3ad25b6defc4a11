"""BatchNorm's running statistics follow from the steps' images alone, on any number of ranks.

A of a step's micro-batches on each of W ranks.
"""

from typing import Any

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class AgreeOnBatchNorm(Callback):
    """Each rank has its own statistics while it trains. Before an evaluation and before a
    checkpoint every rank takes the mean of all ranks': all evaluate, and save, the same model.

    DDP would send rank 0's to all in every step, and DeepSpeed never. The mean counts all data and
    costs one all-reduce where it is needed. It commutes with training, since running statistics are
    linear in the batches' own: a run that is saved in mid-epoch and resumed ends with the same.

    Within a step the A micro-batches weigh alike, m/A each, and what was before 1 - m, where m is
    the layer's own momentum. So a step moves the statistics by m towards the mean of its A x W
    micro-batches' own, however they are spread over ranks; torch alone would move them A times.
    """

    def __init__(self) -> None:
        self._differ = False  # whether ranks have trained since they last agreed
        self._momenta: list[tuple[_BatchNorm, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        norms = [m for m in pl_module.modules() if isinstance(m, _BatchNorm)]
        self._momenta = [(norm, norm.momentum) for norm in norms if norm.momentum is not None]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        A = trainer.accumulate_grad_batches
        if A > 1:
            done = batch_idx % A  # of this step's micro-batches
            for norm, m in self._momenta:
                norm.momentum = m / (A * (1 - m) + (done + 1) * m)

    def on_train_batch_end(self, *args: Any) -> None:
        self._differ = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for norm, m in self._momenta:
            norm.momentum = m

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._agree(pl_module)
        for name, buffer in pl_module.named_buffers():
            if name in checkpoint["state_dict"]:  # it was filled before this hook
                checkpoint["state_dict"][name] = buffer.detach()

    def _agree(self, module: nn.Module) -> None:
        if self._differ:
            average_batchnorm(module)
        self._differ = False


def average_batchnorm(module: nn.Module) -> None:
    """One all-reduce over the running mean and variance of every BatchNorm; nothing on a single
    rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if not buffers:
        return
    flat = torch.cat([b.flatten() for b in buffers])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
