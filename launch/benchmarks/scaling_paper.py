"""What docs/scaling.md expects of 1 to 128 nodes: the parameters of the model with their sources,
and its tables. `launch/benchmark.py scaling --on-paper` prints them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from launch.benchmarks.scaling_model import (
    Cluster,
    Link,
    Training,
    buckets,
    efficiency,
    epoch_s,
    images_per_second,
    step,
)
from launch.terminal.screen import print_columns

NODES = (1, 2, 4, 8, 16, 32, 64, 128)
# 370 GB/s of the 450 that NVLink has in one direction: a maintainer of NCCL, nccl-tests issue 212.
# NVLink SHARP reaches 480. Hops and levels of NVLink and InfiniBand: NCCL's src/graph/tuning.cc.
NVLINK = Link("NVLink", 370e9, hop_s=3.4e-6)
# 46 to 48 GB/s of a 400 Gb/s card: nccl-tests issue 290.
INFINIBAND = Link("8 x 400 Gb/s InfiniBand", 8 * 46e9, hop_s=9.6e-6, level_s=50e-6)
# Assumed: four fifths of 12.5 GB/s over TCP, and 40 us from process to process.
ETHERNET = Link("100 Gb/s Ethernet", 10e9, hop_s=40e-6, level_s=100e-6)
CLUSTERS = tuple(Cluster(8, NVLINK, network) for network in (INFINIBAND, ETHERNET))
# Published: ResNet-50 on an H100 SXM by NVIDIA's script in fp16, which Lambda ran; ResNet-18 on an
# A100 by FFCV.
TRAININGS = (
    Training("ResNet-18, 1,000 classes", 11_689_512, 10_032),
    Training("ResNet-50, 1,000 classes", 25_557_032, 2_791),
    Training("ResNet-50, 21,841 classes", 68_260_241, 2_791),
)
# So that one node of 8 gives the published 22,067 images/s, 98.8 % of 8 times 2,791.
SPREAD = 0.0071
# What an epoch costs rank 0 beside its steps, and so all ranks: at 14.2 million images and 21,841
# classes, as `scaling --costs` measured it on two cores. The order of the images; the copies of two
# checkpoints; the per-class table, and its columns of each node.
IMAGES = 14_196_650
ORDER_S, COPIES_S, TABLE_S, TABLE_NODE_S = 0.9, 0.8, 0.2, 0.02
# A batch with which ResNet-50 is known to train as well as with a small one (Goyal et al. 2017,
# arXiv 1706.02677), and the fewest images of a rank with which its rate may still hold.
STEP_IMAGES, FEWEST = 8_192, 32
COLUMNS = ("nodes", "GPUs", "ms a step", "exposed", "images/s", "efficiency", "in bf16")
EPOCH_COLUMNS = ("nodes", "steps", "s of steps", "s beside", "share")


def print_paper(out: Any, nodes: Sequence[int] = NODES) -> None:
    """A table for each network and training."""
    for training in TRAININGS:
        out.print(
            f"{training.name}: {training.images} images a rank in "
            f"{1e3 * training.compute_s:.1f} ms, {training.gradients / 1e6:.1f} MB of gradients in "
            f"{len(buckets(training.gradients))} parts"
        )
        for cluster in CLUSTERS:
            out.print(f"{cluster.between.name} between the nodes")
            print_columns(out, COLUMNS, [row(training, count, cluster) for count in nodes])
    training = TRAININGS[1]
    out.print(f"strong scaling of {training.name}: {STEP_IMAGES:,} images a step over all ranks")
    for cluster in CLUSTERS:
        shares = {count: STEP_IMAGES // (count * cluster.devices) for count in nodes}
        out.print(f"{cluster.between.name} between the nodes")
        rows = [
            row(replace(training, images=share), count, cluster)
            for count, share in shares.items()
            if FEWEST <= share <= training.images
        ]
        print_columns(out, COLUMNS, rows)
    training, cluster = TRAININGS[-1], CLUSTERS[0]
    out.print(f"epochs of {IMAGES:,} images: {training.name}, {cluster.between.name}")
    print_columns(out, EPOCH_COLUMNS, [epoch_row(training, count, cluster) for count in nodes])


def row(training: Training, nodes: int, cluster: Cluster) -> tuple[str, ...]:
    made = step(training, nodes, cluster, SPREAD)
    halved = replace(training, sent_bytes=2)  # as a communication hook would send them
    return (
        str(nodes),
        f"{made.ranks:,}",
        f"{1e3 * made.seconds:.1f}",
        f"{1e3 * made.exposed_s:.1f}",
        f"{images_per_second(training, made):,.0f}",
        f"{efficiency(training, made):.1%}",
        f"{efficiency(halved, step(halved, nodes, cluster, SPREAD)):.1%}",
    )


def epoch_row(training: Training, nodes: int, cluster: Cluster) -> tuple[str, ...]:
    made, beside = step(training, nodes, cluster, SPREAD), beside_s(nodes)
    whole = epoch_s(training, IMAGES, made, beside)
    return (
        str(nodes),
        f"{IMAGES // (made.ranks * training.images):,}",
        f"{whole - beside:,.1f}",
        f"{beside:.1f}",
        f"{beside / whole:.1%}",
    )


def beside_s(nodes: int) -> float:
    """Seconds of an epoch in which no rank trains."""
    return ORDER_S + COPIES_S + TABLE_S + TABLE_NODE_S * nodes
