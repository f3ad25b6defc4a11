"""Which batches a run can be cut into. Both the submitting command and the training ask here."""

import math
from collections.abc import Iterator

from clf.config.faults import show
from clf.config.node_range import most_nodes
from clf.config.schema import DataConfig, RunConfig


def batches(cfg: RunConfig) -> Iterator[str]:
    """What is wrong with the sizes of the batches, as far as it is known before the data is."""
    data, ranks = cfg.data, most_nodes(cfg) * (cfg.gpus or 1)
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
    if fault := batch_fault(data, ranks, mixes=bool(cfg.mix.mixup or cfg.mix.cutmix)):
        yield fault


def batch_fault(data: DataConfig, ranks: int, mixes: bool = False) -> str | None:
    """What is wrong if a step cannot be cut into equal micro-batches for all ranks, or cannot hold
    each of its images `data.repeats` times. The sizes that it suggests are right in each way.

    Args:
        mixes: each micro-batch must be made of pairs
    """
    size, micro = data.batch_size, data.micro_batch_size
    micro = micro if type(micro) is int else None  # "auto" finds one that fits
    step = ranks * (micro or 1)
    fits = math.lcm(step, data.repeats, 2 * ranks if mixes else 1)
    down, up = size // fits * fits, (size // fits + 1) * fits
    remedy = f"set data.batch_size={f'{down} or {up}' if down else up}"
    if size % step:
        parts = f"{ranks} ranks" if ranks > 1 else "1 rank"
        if micro not in (None, 1):
            parts += f" x data.micro_batch_size={micro} = {step}"
        return f"data.batch_size={size}: not divisible by {parts}; {remedy}"
    share = size // ranks
    if mixes and share % 2:
        return (
            f"data.batch_size={size}: {share} image{'s' * (share > 1)} a rank, an odd number, but "
            f"mixup and cutmix need pairs; {remedy}"
        )
    if mixes and micro is not None and micro % 2:
        even = next(m for m in range(micro + 1, share + 1) if m % 2 == 0 and share % m == 0)
        return (
            f"data.micro_batch_size={micro}: an odd number, but mixup and cutmix need pairs; set "
            f"data.micro_batch_size={even}"
        )
    if size % data.repeats:
        return (
            f"data.repeats={data.repeats}: each image stands so often in a step, and "
            f"data.batch_size={size} is no multiple of it; {remedy}"
        )
    return None


def size_fault(batch_size: int, train_size: int) -> str | None:
    """What is wrong if an epoch would have no batch at all; an incomplete last batch is dropped."""
    if batch_size <= train_size:
        return None
    return (
        f"data.batch_size: {batch_size} is larger than the training split of {train_size} images, "
        f"so not one step could be made; set data.batch_size={train_size} or less"
    )
