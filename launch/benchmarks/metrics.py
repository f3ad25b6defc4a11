"""An update of the metrics beside torchmetrics' own."""

import time
from collections.abc import Iterator
from typing import Any

from launch.benchmarks.comparison import Comparison, Side, Sizes, in_turns, one_core


def metrics(sizes: Sizes) -> Iterator[Comparison]:
    """An update of all that an epoch logs, per-class accuracy included, on one core."""
    import torch
    from torchmetrics.classification import MulticlassAccuracy

    from clf.metrics.counts import ClassificationMetrics

    for classes in (43, 1000):
        generator = torch.Generator().manual_seed(classes)
        logits = torch.randn(sizes.rows, classes, generator=generator)
        labels = torch.randint(classes, (sizes.rows,), generator=generator)
        sums = torch.tensor(1.0), torch.tensor(float(sizes.rows))
        mine = ClassificationMetrics(classes, top_k=5)
        theirs = [
            MulticlassAccuracy(classes, average=None, validate_args=False),
            MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False),
        ]

        def ours(mine: Any = mine, args: Any = (logits, labels, *sums)) -> float:
            start = time.perf_counter()
            for _ in range(sizes.updates):
                mine.update(*args)
            return (time.perf_counter() - start) / sizes.updates * 1e6

        def peer(theirs: Any = theirs, args: Any = (logits, labels)) -> float:
            start = time.perf_counter()
            for _ in range(sizes.updates):
                for metric in theirs:
                    metric.update(*args)
            return (time.perf_counter() - start) / sizes.updates * 1e6

        with one_core():
            values = in_turns(sizes, ours, peer)
        yield Comparison(
            f"update of the metrics, {sizes.rows} rows, {classes} classes, one core",
            "us",
            Side("ClassificationMetrics", values[0]),
            Side("torchmetrics MulticlassAccuracy, per class and top-5", values[1]),
        )
