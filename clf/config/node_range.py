"""`nodes`: a number, or a range such as 1-4, of which each start of a run takes what SLURM has.

A range's micro-batch is fixed when the run is submitted, so that a step computes the same parts on
any number of nodes.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from clf.config.faults import show
from clf.config.schema import RunConfig

RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")


def node_range(nodes: Any) -> tuple[int, int] | None:
    """The least and the most nodes that a value of `nodes` stands for; None: it is none."""
    if type(nodes) is int:
        return (nodes, nodes) if nodes >= 1 else None
    match = RANGE.fullmatch(nodes) if isinstance(nodes, str) else None
    if match is None:
        return None
    least, most = int(match[1]), int(match[2])
    return (least, most) if 1 <= least <= most else None


def least_nodes(cfg: RunConfig) -> int:
    """1 where `nodes` is at fault, which `node_faults` says."""
    return (node_range(cfg.nodes) or (1, 1))[0]


def most_nodes(cfg: RunConfig) -> int:
    """The same for the most."""
    return (node_range(cfg.nodes) or (1, 1))[1]


def is_elastic(cfg: RunConfig) -> bool:
    """Whether starts of the run may have different numbers of nodes."""
    return least_nodes(cfg) < most_nodes(cfg)


def in_words(cfg: RunConfig) -> str:
    """`1 node`, `2 nodes` or `1 to 4 nodes`."""
    least, most = least_nodes(cfg), most_nodes(cfg)
    if least < most:
        return f"{least} to {most} nodes"
    return "1 node" if most == 1 else f"{most} nodes"


def fixed_micro_batch(cfg: RunConfig) -> int:
    """Images of a rank's forward pass on any number of nodes of a range: as given, else a rank's
    whole share of a step on the most nodes."""
    micro = cfg.data.micro_batch_size
    if type(micro) is int and micro > 0:
        return micro
    return max(1, cfg.data.batch_size // (most_nodes(cfg) * (cfg.gpus or 1)))


def usable_counts(cfg: RunConfig) -> list[int]:
    """The numbers of nodes in the range over which a step can be spread in equal micro-batches. On
    any other the run leaves some of its nodes idle."""
    part = fixed_micro_batch(cfg) * (cfg.gpus or 1)
    counts = range(least_nodes(cfg), most_nodes(cfg) + 1)
    return [count for count in counts if cfg.data.batch_size % (part * count) == 0]


def nodes_to_use(cfg: RunConfig, given: int) -> int:
    """The most nodes of an allocation of `given` that the run can use."""
    return max((count for count in usable_counts(cfg) if count <= given), default=given)


def node_faults(cfg: RunConfig) -> Iterator[str]:
    """What is wrong with `nodes`; of a range, also if a step cannot be spread over its ends."""
    if type(cfg.nodes) is int and cfg.nodes < 1:
        yield f"nodes={cfg.nodes}: expected a number of at least 1"
    elif node_range(cfg.nodes) is None:
        yield (
            f"nodes={show(cfg.nodes)}: expected a whole number of at least 1, or a range, fewest "
            "first, such as nodes=1-4"
        )
    elif is_elastic(cfg) and cfg.data.micro_batch_size == "auto":
        yield (
            f"data.micro_batch_size=auto: with nodes={cfg.nodes} it must be the same at every "
            "start; set a number, or null for a rank's share on the most nodes"
        )
    elif not is_elastic(cfg) or most_nodes(cfg) not in (counts := usable_counts(cfg)):
        return  # where the most do not fit, `batches` says which batch would
    elif least_nodes(cfg) not in counts:
        work = f"nodes={counts[0]}-{counts[-1]}" if len(counts) > 1 else f"nodes={most_nodes(cfg)}"
        yield (
            f"nodes={cfg.nodes}: {_why_not(cfg, least_nodes(cfg))}; set {work}{_or_smaller(cfg)}"
        )


def node_notes(cfg: RunConfig) -> Iterator[str]:
    """What a run on a range of nodes does that its user may not expect."""
    if not is_elastic(cfg) or least_nodes(cfg) not in (counts := usable_counts(cfg)):
        return
    idle = [n for n in range(least_nodes(cfg), most_nodes(cfg) + 1) if n not in counts]
    if idle:
        used = [f"{nodes_to_use(cfg, n)} of {n}" for n in idle]
        shown = ", ".join([*used[:3], *(["..."] if len(used) > 3 else [])])
        yield (
            f"nodes={cfg.nodes}: {_why_not(cfg, idle[0])}, so of some allocations the run uses a "
            f"part: {shown} nodes{_or_smaller(cfg).replace('or set', 'set')}"
        )
    if cfg.strategy.sync_batchnorm:
        yield (
            f"strategy.sync_batchnorm=true: with nodes={cfg.nodes} BatchNorm normalises over the "
            "images of as many ranks as a start has; without it the numbers are those of any number"
        )


def _why_not(cfg: RunConfig, count: int) -> str:
    micro, gpus = fixed_micro_batch(cfg), cfg.gpus or 1
    ranks = f"{count * gpus} rank{'s' * (count * gpus > 1)}"
    nodes = f"{count} node{'s' * (count > 1)}"
    return (
        f"a step of data.batch_size={cfg.data.batch_size} images, {micro} a forward pass, cannot "
        f"be spread evenly over the {ranks} of {nodes}"
    )


def _or_smaller(cfg: RunConfig) -> str:
    """A micro-batch with which every number of nodes works, where there is one."""
    counts = range(least_nodes(cfg), most_nodes(cfg) + 1)
    part = math.lcm(*counts) * (cfg.gpus or 1)
    most, rest = divmod(cfg.data.batch_size, part)
    paired = bool(cfg.mix.mixup or cfg.mix.cutmix)
    if rest or (paired and most % 2):
        return ""
    return f"; or set data.micro_batch_size={most}, with which all of them work"
