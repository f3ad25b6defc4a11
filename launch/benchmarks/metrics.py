"""An update of the metrics beside torchmetrics' own."""

from collections.abc import Callable, Iterator
from typing import Any

from launch.benchmarks.comparison import Comparison, Side, Sizes, in_turns, run_side
from launch.benchmarks.meter import Meter

Update = Callable[[], None]
# Operations that give memory, or look at a tensor in another way.
NO_LAUNCH = {
    f"aten::{name}"
    for name in (
        *("empty", "empty_like", "empty_strided", "new_empty", "resize_", "set_", "to", "detach"),
        *("as_strided", "view", "_unsafe_view", "reshape", "expand", "select", "slice", "narrow"),
        *(
            "squeeze",
            "unsqueeze",
            "unsqueeze_",
            "transpose",
            "permute",
            "movedim",
            "t",
            "lift_fresh",
        ),
        *("result_type", "is_nonzero", "item", "broadcast_tensors", "alias", "flatten", "unbind"),
    )
}


def metrics(sizes: Sizes) -> Iterator[Comparison]:
    """An update of what an epoch logs, on one core, beside the three objects of torchmetrics that
    count the most of it. Ours also counts the loss, predictions by class and bad labels."""
    for classes in (43, 1000):
        size = {"rows": sizes.rows, "classes": classes, "updates": sizes.updates}
        sides = (
            Side("ClassificationMetrics", ours, size),
            Side("torchmetrics' accuracy per class, top-5 and calibration error", theirs, size),
        )
        what = f"update of the metrics, {sizes.rows} rows, {classes} classes, one core"
        mine, others = (
            int(run_side(Side("launches", launches, {"whose": whose, **size})).amount)
            for whose in ("ours", "theirs")
        )
        note = f"operations of an update, each a launch on a GPU: ours {mine}, theirs {others}"
        yield Comparison(what, "us", in_turns(sizes, *sides), note)


def ours(meter: Meter, rows: int, classes: int, updates: int) -> None:
    _measured(meter, _ours(rows, classes), updates)


def theirs(meter: Meter, rows: int, classes: int, updates: int) -> None:
    _measured(meter, _theirs(rows, classes), updates)


def launches(meter: Meter, whose: str, rows: int, classes: int, updates: int) -> None:
    """Its amount: operations of an update that work on numbers, which a GPU launches one by one."""
    from torch.profiler import ProfilerActivity, profile

    update = {"ours": _ours, "theirs": _theirs}[whose](rows, classes)
    update()
    meter.start()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        update()
    leaves = [event.name for event in profiled.events() if not event.cpu_children]
    meter.stop(sum(name.startswith("aten::") and name not in NO_LAUNCH for name in leaves))


def _ours(rows: int, classes: int) -> Update:
    import torch

    from clf.metrics.counts import ClassificationMetrics

    metrics = ClassificationMetrics(classes, top_k=5)
    sums = torch.tensor(1.0), torch.tensor(float(rows))
    batch = (*_batch(rows, classes), *sums, torch.arange(rows))
    return lambda: metrics.update(*batch)


def _theirs(rows: int, classes: int) -> Update:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    batch = _batch(rows, classes)
    metrics = [
        MulticlassAccuracy(classes, average=None, validate_args=False),
        MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False),
        MulticlassCalibrationError(classes, n_bins=15, validate_args=False),
    ]

    def update() -> None:
        for metric in metrics:
            metric.update(*batch)

    return update


def _batch(rows: int, classes: int) -> Any:
    import torch

    torch.set_num_threads(1)  # on a busy machine threads that wait for each other hide the work
    generator = torch.Generator().manual_seed(classes)
    logits_BC = torch.randn(rows, classes, generator=generator)
    return logits_BC, torch.randint(classes, (rows,), generator=generator)


def _measured(meter: Meter, update: Update, updates: int) -> None:
    for count in (2, updates):  # two to warm up
        meter.start()
        for _ in range(count):
            update()
        meter.stop(count)
