"""What a rank pays for many images, classes and nodes: at the scale of ImageNet-21k, simulated."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launch.benchmarks.comparison import Comparison, Measured, Side, Sizes, in_turns
from launch.benchmarks.meter import Meter


def scale(sizes: Sizes) -> Iterator[Comparison]:
    """CPU seconds, and memory above that of the process before, of what grows with the data."""
    data = {"images": sizes.many_images, "classes": sizes.many_classes}
    words = f"{sizes.many_images:,} images of {sizes.many_classes:,} classes"
    for kind, repeats in (("shuffle", 1), ("class_balanced", 1), ("class_balanced", 4)):
        yield _row(
            sizes,
            f"the order of an epoch, {kind}{f', repeats={repeats}' * (repeats > 1)}, {words}",
            Side("TrainSampler", order, {**data, "kind": kind, "repeats": repeats}),
        )
    yield _row(
        sizes,
        f"a rank reads the run's list of {sizes.listed_images:,} images",
        Side("data_index.npz", index, {"images": sizes.listed_images}),
    )
    nodes = {"classes": sizes.many_classes, "nodes": sizes.many_nodes}
    words = f"{sizes.many_classes:,} classes, {sizes.many_nodes} nodes"
    yield _row(
        sizes, f"the numbers of an epoch, {words}", Side("ClassificationMetrics", counts, nodes)
    )
    yield _row(sizes, f"the per-class table, {words}", Side("per_class/val.csv", table, nodes))


def _row(sizes: Sizes, what: str, side: Side) -> Comparison:
    (measured,) = in_turns(sizes, side)
    return Comparison(what, "s", [measured], f"at most {_peak_mb(measured):,.0f} MB more memory")


def _peak_mb(measured: Measured) -> float:
    return max(reading.peak_mb for reading in measured.readings)


def order(meter: Meter, images: int, classes: int, kind: str, repeats: int) -> None:
    """The sampler, and one epoch's order."""
    import numpy as np

    from clf.config import DataConfig
    from clf.data.sampler import TrainSampler

    rng = np.random.default_rng(0)
    labels_N = np.sort(rng.integers(0, classes, images))
    batch = min(4096, images // repeats * repeats)
    cfg = DataConfig(batch_size=batch, sampler=kind, repeats=repeats)
    _measured(meter, lambda: TrainSampler(labels_N, cfg, seed=0).global_order())


def index(meter: Meter, images: int) -> None:
    """What each rank does of it at each start; rank 0 has written it once."""
    from clf.data import index_file
    from launch.benchmarks.scaling_costs import listed

    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "data_index.npz")
        splits, cfg = listed(images)
        index_file.write(path, splits, cfg)
        del splits
        _measured(meter, lambda: index_file.read(path, cfg, lambda: iter(())))


def counts(meter: Meter, classes: int, nodes: int) -> None:
    """Without the time on the network: `scaling --costs` says how much is sent."""
    import torch

    from clf.metrics.counts import ClassificationMetrics

    torch.set_num_threads(1)
    metrics = ClassificationMetrics(classes, top_k=5, num_nodes=nodes)
    metrics.counts_K.random_(1, 100)
    metrics.counts_K[3 * classes + 1 : 3 * classes + 3] = 0  # rows that would be an error
    _measured(meter, metrics.compute)


def table(meter: Meter, classes: int, nodes: int) -> None:
    """The rows, and one file of them."""
    from clf.tracking.tables import rows_from_counts, write_csv
    from launch.benchmarks.scaling_costs import counts_by_node

    counted = counts_by_node(classes, nodes)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder, "val.csv")
        _measured(meter, lambda: write_csv(rows_from_counts(*counted), path))


def _measured(meter: Meter, act: Callable[[], Any]) -> None:
    meter.start()
    kept = act()  # its memory counts too
    meter.stop(1)
    del kept
