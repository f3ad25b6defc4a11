"""What a run's own work costs as its ranks, classes and weights grow, measured on this machine:
`launch/benchmark.py scaling --costs`. docs/scaling.md says what of it breaks first."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launch.benchmarks.scaling_model import FIRST_BUCKET, Link, buckets, fitted
from launch.benchmarks.scaling_paper import TRAININGS

IN_21K = 21_841  # classes of ImageNet-21k
GB = 1e9
WARM_UPS = 2  # all-reduces that do not count


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    ring_bytes: tuple[int, ...] = (1 << 10, 1 << 14, FIRST_BUCKET, 4 << 20, 25 << 20)
    ring_rounds: int = 20
    connections: int = 16
    questions: int = 5_000
    trainings: tuple[int, ...] = (1, 2)  # places in TRAININGS whose checkpoints are written
    state: tuple[tuple[int, int], ...] = ((1_000, 1), (1_000, 128), (IN_21K, 1), (IN_21K, 128))


SMALL = Amount(ring_bytes=(), connections=2, questions=20, trainings=(), state=((1_000, 2),))


@dataclass(frozen=True)
class Cost:
    what: str
    value: float
    unit: str


def costs(amount: Amount) -> Iterator[Cost]:
    """Each as soon as it is measured."""
    if amount.ring_bytes:
        link = measured_ring(amount.ring_bytes, amount.ring_rounds)
        yield Cost("bandwidth of a gloo ring of 2 processes here", link.bytes_per_s / GB, "GB/s")
        yield Cost("latency of a hop of it", 1e6 * link.hop_s, "us")
    connect_s, answer_s = store_times(amount.connections, amount.questions)
    yield Cost("a rank comes to the store where ranks meet", 1e3 * connect_s, "ms")
    yield Cost("that store answers a rank", 1e6 * answer_s, "us")
    for classes, nodes in amount.state:
        size = state_bytes(classes, nodes)
        yield Cost(f"counts of the metrics, {classes:,} classes, {nodes} nodes", size / 1e6, "MB")
    for place in amount.trainings:
        training = TRAININGS[place]
        size, copy_s, write_s = checkpoint_times(training.parameters)
        what = f"checkpoint of {training.name}, AdamW"
        yield Cost(what, size / 1e6, "MB")
        yield Cost(f"{what}: the training waits for the copy", copy_s, "s")
        yield Cost(f"{what}: a thread writes it", write_s, "s")


def measured_ring(sizes: Sequence[int], rounds: int) -> Link:
    """The link between two processes of this machine, by all-reduces of gloo."""
    import torch.multiprocessing as multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (folder, tuple(sizes), rounds), nprocs=2)
        seconds = json.loads(Path(folder, "seconds").read_text())
    return fitted(sizes, seconds, 2)


def _rank(rank: int, folder: str, sizes: Sequence[int], rounds: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    seconds = ring_seconds(sizes, rounds)
    if rank == 0:
        Path(folder, "seconds").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def ring_seconds(sizes: Sequence[int], rounds: int) -> list[float]:
    """Median seconds of an all-reduce of so many bytes; called by all ranks of the process group
    together."""
    import torch
    import torch.distributed as dist

    medians = []
    for size in sizes:
        values, times = torch.ones(size // 4), []
        for _ in range(WARM_UPS + rounds):
            values.fill_(1.0)
            dist.barrier()
            times.append(_seconds(partial(dist.all_reduce, values)))
        medians.append(statistics.median(times[WARM_UPS:]))
    return medians


def store_times(connections: int, questions: int) -> tuple[float, float]:
    """Median seconds in which a client connects to the store and says that it is there, and in
    which it gets an answer to what the thread of `clf.resilience.agreement` asks."""
    from torch.distributed import TCPStore

    server = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    clients: list[Any] = []

    def connect() -> None:
        client = TCPStore("127.0.0.1", server.port, None, False, wait_for_workers=False)
        client.set(f"rank/{len(clients)}", "here")
        clients.append(client)

    connected = statistics.median(_seconds(connect) for _ in range(connections))
    ask = partial(clients[0].check, ["stop"])
    return connected, statistics.median(_seconds(ask) for _ in range(questions))


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def state_bytes(classes: int, nodes: int) -> int:
    """What a rank keeps of an epoch's counts, and sends once at its end."""
    from clf.metrics.counts import ClassificationMetrics

    state: dict[str, Any] = ClassificationMetrics(classes, 5, nodes).metric_state
    return sum(one.nbytes for one in state.values())


def checkpoint_times(parameters: int) -> tuple[int, float, float]:
    """Bytes, and seconds of the copy and of the file, as `clf.resilience.saving` makes them: the
    weights and the two moments of AdamW, in parts as a network has them."""
    import torch

    from clf.resilience.saving import AtomicCheckpointIO, on_host

    content = {
        f"{kind}/{number}": torch.ones(int(part) // 4)
        for kind in ("weights", "first", "second")
        for number, part in enumerate(buckets(4 * parameters))
    }
    began = time.perf_counter()
    copied = on_host(content)
    copy_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "last.ckpt")
        write_s = _seconds(lambda: AtomicCheckpointIO().save_checkpoint(copied, path))
        return path.stat().st_size, copy_s, write_s
