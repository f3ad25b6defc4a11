"""An update of the metrics beside torchmetrics' own."""

from collections.abc import Iterator
from typing import Any

from launch.benchmarks.comparison import Comparison, Side, Sizes, in_turns
from launch.benchmarks.meter import Meter


def metrics(sizes: Sizes) -> Iterator[Comparison]:
    """An update of all that an epoch logs, per-class accuracy included, on one core."""
    for classes in (43, 1000):
        size = {"rows": sizes.rows, "classes": classes, "updates": sizes.updates}
        yield Comparison(
            f"update of the metrics, {sizes.rows} rows, {classes} classes, one core",
            "us",
            in_turns(
                sizes,
                Side("ClassificationMetrics", ours, size),
                Side("torchmetrics MulticlassAccuracy, per class and top-5", torchmetrics, size),
            ),
        )


def ours(meter: Meter, rows: int, classes: int, updates: int) -> None:
    import torch

    from clf.metrics.counts import ClassificationMetrics

    logits_BC, labels_B = _batch(rows, classes)
    sums = torch.tensor(1.0), torch.tensor(float(rows))
    _update(meter, [ClassificationMetrics(classes, top_k=5)], (logits_BC, labels_B, *sums), updates)


def torchmetrics(meter: Meter, rows: int, classes: int, updates: int) -> None:
    from torchmetrics.classification import MulticlassAccuracy

    both = [
        MulticlassAccuracy(classes, average=None, validate_args=False),
        MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False),
    ]
    _update(meter, both, _batch(rows, classes), updates)


def _batch(rows: int, classes: int) -> Any:
    import torch

    torch.set_num_threads(1)  # on a busy machine threads that wait for each other hide the work
    generator = torch.Generator().manual_seed(classes)
    logits_BC = torch.randn(rows, classes, generator=generator)
    return logits_BC, torch.randint(classes, (rows,), generator=generator)


def _update(meter: Meter, metrics: list[Any], batch: Any, updates: int) -> None:
    for counts in (2, updates):  # two to warm up
        meter.start()
        for _ in range(counts):
            for metric in metrics:
                metric.update(*batch)
        meter.stop(counts)
