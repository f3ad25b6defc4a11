"""The evaluation that ends a run as charts and pictures of W&B: which classes are confused, how
often each is right, what the probabilities are worth, and what the network is most surely wrong
about.

N images, C classes, M bins of confidence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clf.config.faults import printable
from clf.metrics.measures import BINS, percent
from clf.predictions import UNKNOWN, Predictions, confidently_wrong
from clf.tracking.tables import PerClassRow, header, worst_and_best

MOST_CLASSES = 50  # in a chart: of more nothing could be read, and W&B cuts a table at 10,000 rows
MOST_ROWS = 10_000  # of a table: W&B would show the first ones alone
MOST_PICTURES = 24
OTHERS = "(other classes)"


def evaluation_charts(predictions: Predictions, pictures: Path) -> dict[str, Any]:
    """What to log, by name. Images whose class is not known are left out.

    Args:
        pictures: <index>.jpg of some images of the split; those that are not there are not shown
    """
    split, counts = predictions.split, predictions.class_counts()
    support_C, correct_C, _ = counts
    if not support_C.any():
        return {}
    charts = {
        f"{split}/confusion_matrix": _confusion_matrix(predictions, counts),
        f"{split}/class_accuracy": _bars(predictions.classes, support_C, correct_C),
        f"{split}/calibration": _calibration(predictions),
    }
    if images := _worst_pictures(predictions, pictures):
        charts[f"{split}/worst_pictures"] = images
    return charts


def per_class_table(rows: Sequence[PerClassRow], before: Sequence[PerClassRow] | None) -> Any:
    """The per-class table of an evaluation; of more than `MOST_ROWS` classes the worst and the
    best.

    Args:
        before: rows of the epoch before, for the column "delta" beside the accuracy; None: without
    """
    import wandb

    rows = worst_and_best(rows, MOST_ROWS)
    columns: list[str | int] = [*header(rows)]
    cells = [[printable(row.name), *row.cells()[1:]] for row in rows]
    if before is not None:
        place = columns.index("accuracy") + 1
        columns.insert(place, "delta")
        accuracies = {row.name: row.accuracy for row in before}
        for row, values in zip(rows, cells, strict=True):
            now, earlier = row.accuracy, accuracies.get(row.name)
            values.insert(place, None if now is None or earlier is None else now - earlier)
    return wandb.Table(columns=columns, data=cells)


def _confusion_matrix(predictions: Predictions, counts: tuple[np.ndarray, ...]) -> Any:
    import wandb

    C, known_N = len(predictions.classes), predictions.labels_N != UNKNOWN
    names, title = [printable(name) for name in predictions.classes], "Confusion matrix"
    place_C = np.arange(C)  # of each class in the chart
    if C > MOST_CLASSES:
        support_C, correct_C, predicted_C = counts
        wrong_C = (support_C - correct_C) + (predicted_C - correct_C)
        order_C = np.argsort(-wrong_C, kind="stable")
        shown = np.sort(order_C[: MOST_CLASSES - 1])
        place_C = np.full(C, len(shown))
        place_C[shown] = np.arange(len(shown))
        names = [names[c] for c in shown] + [OTHERS]
        title += f": the {len(shown)} most confused of {C} classes"
    return wandb.plot.confusion_matrix(
        y_true=place_C[predictions.labels_N[known_N]].tolist(),
        preds=place_C[predictions.predicted_N[known_N]].tolist(),
        class_names=names,
        title=title,
    )


def _bars(classes: list[str], support_C: np.ndarray, correct_C: np.ndarray) -> Any:
    import wandb

    accuracy_C = correct_C / np.maximum(support_C, 1)
    with_images = np.flatnonzero(support_C)
    order = with_images[np.argsort(accuracy_C[with_images], kind="stable")][:MOST_CLASSES]
    title = "Accuracy by class"
    if len(order) < len(with_images):
        title += f": the {len(order)} worst of {len(with_images)}"
    data = [[printable(classes[c]), float(accuracy_C[c])] for c in order]
    table = wandb.Table(columns=["class", "accuracy"], data=data)
    return wandb.plot.bar(table, "class", "accuracy", title=title)


def _calibration(predictions: Predictions) -> Any:
    """Share of images that are right over their mean confidence, a point a bin."""
    import wandb

    images_M, right_M, confidence_M = predictions.calibration(BINS)
    filled = images_M > 0
    mean_m, accuracy_m = (of_M[filled] / images_M[filled] for of_M in (confidence_M, right_M))
    return wandb.plot.line_series(
        xs=[mean_m.tolist(), [0.0, 1.0]],
        ys=[accuracy_m.tolist(), [0.0, 1.0]],
        keys=["this run", "calibrated"],
        title="Share of right predictions by confidence",
        xname="confidence",
    )


def _worst_pictures(predictions: Predictions, pictures: Path) -> list[Any]:
    """The wrong predictions that the network was surest of, as far as there are pictures."""
    import wandb

    labels_N, predicted_N = predictions.labels_N, predictions.predicted_N
    classes = predictions.classes
    images: list[Any] = []
    for row in confidently_wrong(predictions, most=None):
        path = pictures / f"{predictions.indices_N[row]}.jpg"
        if path.is_file() and len(images) < MOST_PICTURES:
            label, predicted = classes[labels_N[row]], classes[predicted_N[row]]
            sure = percent(float(predictions.confidence_N[row]))
            name = Path(predictions.images[row]).name
            caption = f"{label} taken for {predicted}, {sure} sure: {name}"
            images.append(wandb.Image(str(path), caption=printable(caption)))
    return images
