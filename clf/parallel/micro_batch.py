"""data.micro_batch_size=auto: the largest micro-batch that fits into the memory of every rank.
Gradients are accumulated up to `data.batch_size`, so the optimizer's steps stay the same.

m: images per forward pass of a rank.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from clf.batch import ClassificationBatch

MARGIN = 0.95  # share of the GPU's memory for a trial; later steps fragment it a little more


class FindMicroBatch(Callback):
    """Tries a forward and a backward pass before the first step. If a rank runs out of memory, all
    ranks halve the micro-batch and try again.

    This happens before the engine wraps the model, so that no rank waits in a collective for one
    that failed. A trial uses images of its own and leaves no trace: weights, gradients, BatchNorm
    statistics, counts, random numbers and the order of the data are as they were. (Lightning's
    `BatchSizeFinder` refuses several devices: issues 17393, 19789, 20994.)

    Args:
        largest: the first micro-batch to try, in images; None: a rank's whole share of a step
    """

    def __init__(self, largest: int | None = None) -> None:
        self.largest = largest

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        module: Any = pl_module.to(trainer.strategy.root_device)
        data = trainer.datamodule.cfg  # type: ignore[attr-defined]
        share = data.batch_size // trainer.world_size
        unit = 1 if module.mix is None else 2  # images are mixed in pairs
        m = _largest_divisor(share, min(self.largest or share, share), unit)
        size, all_agree = data.size, trainer.strategy.reduce_boolean_decision
        while not all_agree(fits(trainer, module, m, size)):
            if m == unit:
                least = "one image" if unit == 1 else "two images"
                raise ValueError(
                    f"data.micro_batch_size=auto: not even {least} of {size} pixels "
                    "fits in the memory of every device. Lower data.image_size, or set "
                    "strategy.gradient_checkpointing=true"
                )
            m = _largest_divisor(share, m // 2, unit)
        data.micro_batch_size = m
        trainer.accumulate_grad_batches = share // m
        rank_zero_info(f"data.micro_batch_size=auto: {m} images, {share // m} times a step")


def fits(trainer: Trainer, module: Any, m: int, size: int) -> bool:
    """Whether this rank has enough memory for a training step on m images."""
    try:
        with _without_a_trace(module), _less_memory(module.device):
            _try_step(trainer, module, m, size)
    except torch.OutOfMemoryError:
        fitted = False
    except RuntimeError as error:  # cuDNN and cuBLAS have their own messages for it
        if "ALLOC_FAILED" not in str(error):
            raise
        fitted = False
    else:
        fitted = True
    if module.device.type == "cuda":
        torch.cuda.empty_cache()
    return fitted


def _try_step(trainer: Trainer, module: Any, m: int, size: int) -> None:
    # A step also holds AdamW's two moments and the buckets in which gradients are reduced,
    # and callbacks may hold an average of the weights.
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    copies = 3 + sum(getattr(one, "copies_of_weights", 0) for one in callbacks)
    trained = [p for p in module.parameters() if p.requires_grad]
    held = [torch.empty_like(p) for p in trained for _ in range(copies)]
    images_BCHW = torch.zeros(2, m, 3, size, size, dtype=torch.uint8, device=module.device)[0]
    images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    labels_B = torch.zeros(m, dtype=torch.int64, device=module.device)
    batch = ClassificationBatch(images=images_BCHW, labels=labels_B, indices=labels_B)
    with trainer.precision_plugin.forward_context():
        batch, mixed = module.mixed(batch, 0)
        loss_sum, weight_sum = module.loss_sums(module(batch["images"]), labels_B, mixed)
    (loss_sum / weight_sum).backward()
    del held


@contextmanager
def _without_a_trace(module: torch.nn.Module) -> Iterator[None]:
    buffers: dict[str, Tensor] = copy.deepcopy(dict(module.named_buffers()))
    devices = [p.device for p in module.parameters() if p.device.type == "cuda"][:1]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        module.zero_grad(set_to_none=True)
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])


@contextmanager
def _less_memory(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(MARGIN, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _largest_divisor(number: int, limit: int, unit: int = 1) -> int:
    """The largest divisor of `number` that is a multiple of `unit` and not above `limit`; `unit`
    if there is none."""
    multiples = range(limit // unit * unit, unit, -unit)
    return next((m for m in multiples if number % m == 0), unit)
