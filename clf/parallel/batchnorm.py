"""BatchNorm's running statistics depend on the images of the steps alone, on any number of ranks.

A: micro-batches that each rank accumulates in a step; W: ranks; n: numbers of all statistics.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from clf.parallel.lightning_internals import is_batchnorm

# Our entry in a checkpoint of the middle of an epoch: "layers", the names of BatchNorm layers, and
# "statistics_Wn", what each rank had in them
OF_RANKS = "clf_batchnorm"
MOST_BYTES = 64 * 2**20


class AgreeOnBatchNorm(Callback):
    """Averages the running statistics over all ranks before each evaluation and each checkpoint, so
    that every rank evaluates, and saves, the same model. While it trains, each rank has its own.

    DDP would send rank 0's statistics to all ranks in every step, and DeepSpeed would never do so.
    The mean takes all data into account and costs one all-reduce where it is needed. Running
    statistics are linear in those of the batches, so the mean may be taken at any time, except for
    rounding. So a checkpoint in mid-epoch holds the mean in its `state_dict`, and beside it what
    each rank had: the ranks keep theirs, and a run that goes on with as many ranks takes them up
    again and ends with the same bits.

    Within a step each of the A micro-batches has the weight m/A, and the statistics from before the
    step have 1 - m, where m is the layer's momentum. So a step moves the statistics by m towards
    the mean of its A x W micro-batches, however these are spread over ranks. Torch alone would
    move them A times.
    """

    def __init__(self) -> None:
        self._norms: list[Any] = []
        self._differ: dict[int, Any] = {}  # BatchNorm layers, by id, that moved since then
        self._momenta: list[tuple[Any, float]] = []  # each BatchNorm layer with its own momentum
        # Statistics that this callback moves: with what they were, and the micro-batch's weight
        self._moving: list[tuple[Tensor, Tensor, float]] = []
        self._loaded: dict[str, Any] | None = None  # what each rank had, of a checkpoint

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            self._loaded = checkpoint.get(OF_RANKS)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._norms = [m for m in pl_module.modules() if is_batchnorm(m)]
        self._momenta = [(m, m.momentum) for m in self._norms if m.momentum is not None]
        if self._loaded is not None:  # not earlier: DDP sends rank 0's buffers to all when it wraps
            layers, of_ranks = self._loaded["layers"], self._loaded["statistics_Wn"]
            norms = [pl_module.get_submodule(name) for name in layers]
            if take_own([b for norm in norms for b in statistics(norm)], of_ranks):
                self._differ.update((id(norm), norm) for norm in norms)
            self._loaded = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        A = trainer.accumulate_grad_batches
        if A == 1:
            return
        done = batch_idx % A  # micro-batches of this step before this one
        for norm, m in self._momenta:
            norm.momentum = m / (A * (1 - m) + (done + 1) * m)
            if getattr(pl_module, "is_compiled", False) and norm.training:
                weight, norm.momentum = norm.momentum, 1.0
                self._moving += [(buffer, buffer.clone(), weight) for buffer in statistics(norm)]

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for buffer, before, weight in self._moving:
            buffer.copy_(torch.lerp(before, buffer, weight))
        self._moving = []

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
        names = {id(module): name for name, module in pl_module.named_modules()}
        layers = [names[number] for number in self._differ]
        buffers = self._differing()
        of_ranks_Wn = gather_over_ranks(buffers)
        if of_ranks_Wn is None:
            self._agree()
            means = [b.detach() for b in buffers]
        else:
            checkpoint[OF_RANKS] = {"layers": layers, "statistics_Wn": of_ranks_Wn.cpu()}
            means = _split(of_ranks_Wn.mean(dim=0), buffers)
        held = {id(buffer): name for name, buffer in pl_module.named_buffers()}
        for buffer, mean in zip(buffers, means, strict=True):
            checkpoint["state_dict"][held[id(buffer)]] = mean

    def _differing(self) -> list[Tensor]:
        return [b for norm in self._differ.values() for b in statistics(norm)]

    def _agree(self) -> None:
        average_over_ranks(self._differing())
        self._differ = {}


def statistics(module: nn.Module) -> list[Tensor]:
    """The running mean and variance of every BatchNorm."""
    norms: list[Any] = [m for m in module.modules() if is_batchnorm(m)]
    return [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]


def average_over_ranks(buffers: list[Tensor]) -> None:
    """Replace each buffer by its mean over all ranks, in one all-reduce. Without a process group
    this does nothing."""
    if not (_many_ranks() and buffers):
        return
    flat_n = torch.cat([b.flatten() for b in buffers])
    torch.distributed.all_reduce(flat_n)
    flat_n /= torch.distributed.get_world_size()
    for buffer, mean in zip(buffers, _split(flat_n, buffers), strict=True):
        buffer.copy_(mean)


def gather_over_ranks(buffers: list[Tensor]) -> Tensor | None:
    """[W, n], what each rank has in these buffers, in one all-gather. None without several ranks or
    buffers; and where it would take more than `MOST_BYTES`, which a ResNet-50 does on 300 ranks."""
    if not (_many_ranks() and buffers):
        return None
    flat_n = torch.cat([b.flatten() for b in buffers])
    W = torch.distributed.get_world_size()
    if W * flat_n.nbytes > MOST_BYTES:
        return None
    of_ranks_Wn = flat_n.new_empty(W, len(flat_n))
    torch.distributed.all_gather(list(of_ranks_Wn.unbind()), flat_n)
    return of_ranks_Wn


def take_own(buffers: list[Tensor], of_ranks_Wn: Tensor) -> bool:
    """Give the buffers what `gather_over_ranks` found on this rank; False if there were another
    number of ranks."""
    if not _many_ranks() or len(of_ranks_Wn) != torch.distributed.get_world_size():
        return False
    own_n = of_ranks_Wn[torch.distributed.get_rank()]
    for buffer, own in zip(buffers, _split(own_n, buffers), strict=True):
        buffer.copy_(own)
    return True


def _split(flat_n: Tensor, buffers: list[Tensor]) -> list[Tensor]:
    parts = flat_n.split([b.numel() for b in buffers])
    return [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)]


def _many_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


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
