"""How long a data-parallel training step takes on N nodes, on paper: the model of docs/scaling.md.

python launch/benchmark.py scaling --on-paper

A step is the computation of the slowest rank, and of the gradients' all-reduce what the backward
pass does not hide. All functions are pure; times are in seconds and sizes in bytes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

MIB = 1 << 20
FIRST_BUCKET, BUCKET = 1 * MIB, 25 * MIB  # of DistributedDataParallel, by its defaults
TREE = 0.9  # share of a link's bandwidth that trees reach, as NCCL reckons (src/graph/tuning.cc)
BACKWARD = 2 / 3  # share of a step's computation: twice the operations of the forward pass


@dataclass(frozen=True)
class Link:
    """What the members of a ring send through.

    Args:
        bytes_per_s: the bus bandwidth of nccl-tests, which a member sends and receives at once
        hop_s: latency of one message from a member of a ring to the next one
        level_s: the same for a level of a tree; None: there are only rings
    """

    name: str
    bytes_per_s: float
    hop_s: float
    level_s: float | None = None


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal devices; `between` is the network of a whole node, all its cards together."""

    devices: int  # a node
    within: Link
    between: Link


@dataclass(frozen=True)
class Training:
    """What one device does by itself.

    Args:
        images_per_second: of one device alone
        images: of a rank's step
        sent_bytes: of a parameter's gradient; 4, also under bf16-mixed, unless a communication hook
            of DistributedDataParallel casts them
    """

    name: str
    parameters: int
    images_per_second: float
    images: int = 256
    sent_bytes: int = 4

    @property
    def gradients(self) -> int:
        """Bytes of the gradients as they are kept, in the weights' float32."""
        return 4 * self.parameters

    @property
    def compute_s(self) -> float:
        return self.images / self.images_per_second


@dataclass(frozen=True)
class Step:
    """A step on some nodes, and its parts."""

    ranks: int
    compute_s: float  # of the slowest rank
    all_reduce_s: float  # of all buckets, as if nothing hid them
    exposed_s: float  # what the backward pass does not hide

    @property
    def seconds(self) -> float:
        return self.compute_s + self.exposed_s


def ring_s(size: float, members: int, link: Link) -> float:
    """An all-reduce around a ring: each member sends 2 (n - 1) pieces of 1/n, one after another."""
    hops = 2 * (members - 1)
    return hops * (size / members / link.bytes_per_s + link.hop_s)


def tree_s(size: float, members: int, link: Link) -> float:
    """An all-reduce up and down NCCL's two binary trees, which it takes where a ring has too many
    hops; infinite where there is none."""
    if link.level_s is None:
        return math.inf
    levels = math.ceil(math.log2(members))
    return 2 * (size / (TREE * link.bytes_per_s) + levels * link.level_s) if levels else 0.0


def all_reduce_s(size: float, nodes: int, cluster: Cluster) -> float:
    """Within each node first, and then between nodes, each device its own part. NCCL does both at
    once for parts of a message, so that this is no less than what it takes."""
    between = min(ring_s(size, nodes, cluster.between), tree_s(size, nodes, cluster.between))
    return ring_s(size, cluster.devices, cluster.within) + between


def buckets(size: float) -> list[float]:
    """The sizes in which DistributedDataParallel reduces the gradients, in their order."""
    found, left, largest = list[float](), size, FIRST_BUCKET
    while left > 0:
        found.append(min(left, largest))
        left, largest = left - found[-1], BUCKET
    return found


def exposed_s(sizes: Sequence[float], backward_s: float, cost: Callable[[float], float]) -> float:
    """How much longer than the backward pass the reduction of all buckets takes. One follows the
    other, and none begins before its gradients are there, which come evenly."""
    ready, done, total = 0.0, 0.0, sum(sizes)
    for size in sizes:
        ready += backward_s * size / total
        done = max(ready, done) + cost(size)
    return max(0.0, done - backward_s)


def slowest(ranks: int, spread: float) -> float:
    """How much longer than the mean the slowest rank takes, 1 for one rank: the expected maximum of
    normally distributed times (Blom 1958), whose standard deviation is `spread` of their mean."""
    return 1 + spread * NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def step(training: Training, nodes: int, cluster: Cluster, spread: float) -> Step:
    """A step on `nodes` nodes with the same images a rank."""
    ranks = nodes * cluster.devices
    compute_s = training.compute_s * slowest(ranks, spread)
    sizes = buckets(training.gradients)

    def cost(size: float) -> float:
        return all_reduce_s(size * training.sent_bytes / 4, nodes, cluster)

    exposed = exposed_s(sizes, BACKWARD * compute_s, cost) if ranks > 1 else 0.0
    return Step(ranks, compute_s, sum(map(cost, sizes)), exposed)


def images_per_second(training: Training, made: Step) -> float:
    return made.ranks * training.images / made.seconds


def efficiency(training: Training, made: Step) -> float:
    """Of a rank beside one device alone, 0 to 1."""
    return training.compute_s / made.seconds


def epoch_s(training: Training, images: int, made: Step, each_epoch_s: float) -> float:
    """An epoch of so many images, with what it costs however few its steps are."""
    steps = images // (made.ranks * training.images)
    return steps * made.seconds + each_epoch_s


def fitted(sizes: Sequence[float], seconds: Sequence[float], members: int) -> Link:
    """The link on which rings of so many members took these times: by least squares of the relative
    errors, since small messages show the latency and large ones the bandwidth.

    Raises:
        ValueError: fewer than two sizes, or times that do not grow with them
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"expected all-reduces of two sizes or more, got {sorted(set(sizes))}")
    # seconds = start + slope * size, with each equation divided by its seconds.
    rows = [(1 / one, size / one) for size, one in zip(sizes, seconds, strict=True)]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a1, b1 = sum(row[0] for row in rows), sum(row[1] for row in rows)
    slope = (aa * b1 - ab * a1) / (aa * bb - ab * ab)
    start = (a1 - ab * slope) / aa
    if slope <= 0:
        raise ValueError("the times of the all-reduces do not grow with their sizes")
    hops = 2 * (members - 1)
    return Link("measured", hops / members / slope, max(0.0, start) / hops)
