"""What a run's own work costs as its ranks, classes and weights grow, measured on this machine:
`launch/benchmark.py scaling --costs`. docs/scaling.md says what of it breaks first."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from clf.config.files import ROOT
from launch.benchmarks.scaling_model import FIRST_BUCKET, Link, buckets, fitted
from launch.benchmarks.scaling_paper import TRAININGS

IN_21K = 21_841  # classes of ImageNet-21k
GB = 1e9
A_CLASS = 650  # images, of 14.2 million
WARM_UPS = 2  # all-reduces that do not count


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    ring_bytes: tuple[int, ...] = (1 << 10, 1 << 14, FIRST_BUCKET, 4 << 20, 25 << 20)
    ring_rounds: int = 20
    connections: int = 16
    questions: int = 5_000
    imports: bool = True
    images: int = IN_21K * A_CLASS
    listed: int = 1_000_000  # of these, of which the list is timed
    files: int = 20_000
    tables: tuple[int, ...] = (1, 128)  # nodes
    trainings: tuple[int, ...] = (1, 2)  # places in TRAININGS whose checkpoints are written
    state: tuple[tuple[int, int], ...] = ((1_000, 1), (1_000, 128), (IN_21K, 1), (IN_21K, 128))


SMALL = Amount(
    ring_bytes=(),
    connections=2,
    questions=20,
    imports=False,
    images=1_000,
    listed=1_000,
    files=1_000,
    tables=(2,),
    trainings=(),
    state=((1_000, 2),),
)


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
    if amount.imports:
        yield Cost("files of Python that a rank imports at its start", imported_files(), "files")
    yield Cost("listing a million files in folders of classes here", listing_s(amount.files), "s")
    size, write_s, read_s = index_costs(amount.listed)
    yield Cost("list of a million images in the run folder", size, "MB")
    yield Cost("rank 0 writes it", write_s, "s of CPU")
    yield Cost("each rank reads it", read_s, "s of CPU")
    order_s = _cpu_seconds(sampler(amount.images).global_order)
    yield Cost(f"each rank draws the order of {amount.images:,} images", order_s, "s of CPU")
    for nodes in amount.tables:
        size, table_s = table_costs(IN_21K, nodes)
        what = f"per-class table of {IN_21K:,} classes and {nodes} nodes"
        yield Cost(what, size / 1e6, "MB")
        yield Cost(f"{what}: rank 0 makes and writes it", table_s, "s of CPU")
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


def imported_files() -> int:
    """How many files a process opens for what `clf.run` imports."""
    count = (
        "import sys, clf.run; print(sum(hasattr(one, '__file__') for one in sys.modules.values()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", count], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def listing_s(files: int) -> float:
    """CPU seconds of listing a million files, by listing so many of a local disk."""
    from clf.data.folders import read_folders

    with tempfile.TemporaryDirectory(dir=".") as folder:
        for number in range(files):
            path = Path(folder, "train", f"n{number // A_CLASS:08d}", f"{number}.JPEG")
            if not number % A_CLASS:
                path.parent.mkdir(parents=True)
            path.touch()
        return 1e6 / files * _cpu_seconds(partial(read_folders, Path(folder)))


def index_costs(images: int) -> tuple[float, float, float]:
    """Of a million images, by a list of so many: megabytes, and CPU seconds to write and read."""
    from clf.data import index_file

    splits, cfg = listed(images)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "data_index.npz")
        write_s = _cpu_seconds(partial(index_file.write, path, splits, cfg))
        read_s = _cpu_seconds(partial(index_file.read, path, cfg, lambda: iter(())))
        return path.stat().st_size / images, 1e6 / images * write_s, 1e6 / images * read_s


def listed(images: int) -> Any:
    """(ImageSplits, DataConfig): so many images in folders, as a reader would list them."""
    from clf.config import DataConfig
    from clf.data.index import ImageSplits, Split

    cfg, labels_N = DataConfig(name="imagefolder", root="/images"), sampler(images).labels_N
    paths = [
        f"/images/train/n{label:08d}/n{label:08d}_{number}.JPEG"
        for number, label in enumerate(labels_N.tolist())
    ]
    classes = [f"n{label:08d}" for label in range(-(-images // A_CLASS))]
    val, test = (Split([], labels_N[:0], name) for name in ("val", "test"))
    return ImageSplits(classes, Split(paths, labels_N), val, test), cfg


def sampler(images: int) -> Any:
    """The sampler of so many images."""
    import numpy as np

    from clf.config import DataConfig
    from clf.data.sampler import TrainSampler

    labels_N = np.arange(images) // A_CLASS
    return TrainSampler(labels_N, DataConfig(batch_size=1), 0)


def table_costs(classes: int, nodes: int) -> tuple[int, float]:
    """Bytes of a per-class table, and CPU seconds to make it and write it twice, as val.csv and as
    that of its epoch."""
    from clf.tracking.tables import rows_from_counts, write_csv

    counted = counts_by_node(classes, nodes)

    def write(path: Path) -> None:
        rows = rows_from_counts(*counted)
        for name in (path, path.with_name("val_epoch001.csv")):
            write_csv(rows, name)

    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "val.csv")
        seconds = _cpu_seconds(partial(write, path))
        return path.stat().st_size, seconds


def counts_by_node(classes: int, nodes: int) -> Any:
    """What `clf.tracking.tables.rows_from_counts` takes."""
    import numpy as np

    rng = np.random.default_rng(0)
    support_NC = rng.integers(1, 9, (nodes, classes))
    correct_NC = rng.integers(0, support_NC)
    names, hosts = [f"n{label:08d}" for label in range(classes)], [f"node{n}" for n in range(nodes)]
    return names, support_NC, correct_NC, support_NC.sum(0), hosts


def _cpu_seconds(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def state_bytes(classes: int, nodes: int) -> int:
    """What a rank sends of an epoch's counts, once at its end; it keeps those of its node alone."""
    from clf.metrics import counts

    sent: list[int] = []

    def send(state: Any) -> Any:
        sent.append(state.nbytes)
        return state.clone()

    with patch.object(counts, "sum_over_ranks", send):
        counts.ClassificationMetrics(classes, 5, nodes).compute()
    return sum(sent)


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
