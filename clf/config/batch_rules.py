"""Which batches a run can be cut into. Both the submitting command and the training ask here."""

import math
from collections.abc import Iterator

from clf.config.faults import show
from clf.config.schema import DataConfig, RunConfig


def batches(cfg: RunConfig) -> Iterator[str]:
    """What is wrong with the sizes of the batches, as far as it is known before the data is."""
    data, ranks = cfg.data, max(1, cfg.nodes * (cfg.gpus or 1))
    micro = data.micro_batch_size
    if micro not in (None, "auto") and (type(micro) is not int or micro < 1):
        yield (
            f"data.micro_batch_size={show(micro)}: expected a whole number of at least 1, auto, or "
            "null"
        )
        return
    if micro == "auto" and cfg.strategy.accelerator == "cpu":
        yield (
            "data.micro_batch_size=auto: finds what a GPU's memory holds, and this run is on the "
            "CPU; set a number, or null"
        )
    fault = share_fault(data.batch_size, None if micro == "auto" else micro, ranks)
    if fault is None and (cfg.mix.mixup or cfg.mix.cutmix):
        fault = pairs_fault(data, ranks)
    if fault is None and data.batch_size % data.repeats:
        fault = repeats_fault(data, ranks)
    if fault is not None:
        yield fault


def share_fault(batch_size: int, micro_batch_size: int | None, ranks: int) -> str | None:
    """What is wrong if the batch cannot be cut into equal micro-batches for all ranks."""
    step = ranks * (micro_batch_size or 1)
    if batch_size % step == 0:
        return None
    parts = f"{ranks} ranks" if ranks > 1 else "1 rank"
    if step > ranks:
        parts += f" x data.micro_batch_size={micro_batch_size} = {step}"
    down, up = batch_size // step * step, (batch_size // step + 1) * step
    return (
        f"data.batch_size={batch_size}: not divisible by {parts}; "
        f"set data.batch_size={f'{down} or {up}' if down else up}"
    )


def pairs_fault(data: DataConfig, ranks: int) -> str | None:
    """What is wrong if a micro-batch has an image without a partner to be mixed with."""
    share, micro = data.batch_size // ranks, data.micro_batch_size
    if share % 2:
        step = 2 * ranks
        down, up = data.batch_size // step * step, (data.batch_size // step + 1) * step
        return (
            f"data.batch_size={data.batch_size}: {share} images a rank, an odd number, but mixup "
            f"and cutmix need pairs; set data.batch_size={f'{down} or {up}' if down else up}"
        )
    if type(micro) is int and micro % 2:
        even = next(m for m in range(micro + 1, share + 1) if m % 2 == 0 and share % m == 0)
        return (
            f"data.micro_batch_size={micro}: an odd number, but mixup and cutmix need pairs; set "
            f"data.micro_batch_size={even}"
        )
    return None


def repeats_fault(data: DataConfig, ranks: int) -> str:
    """Of a batch that cannot hold each of its images `repeats` times."""
    micro = data.micro_batch_size if type(data.micro_batch_size) is int else 1
    step = math.lcm(data.repeats, ranks * micro)
    down, up = data.batch_size // step * step, (data.batch_size // step + 1) * step
    return (
        f"data.repeats={data.repeats}: each image stands so often in a step, and "
        f"data.batch_size={data.batch_size} is no multiple of it; "
        f"set data.batch_size={f'{down} or {up}' if down else up}"
    )


def size_fault(batch_size: int, train_size: int) -> str | None:
    """What is wrong if an epoch would have no batch at all; an incomplete last batch is dropped."""
    if batch_size <= train_size:
        return None
    return (
        f"data.batch_size: {batch_size} is larger than the training split of {train_size} images, "
        f"so not one step could be made; set data.batch_size={train_size} or less"
    )
