"""The columns of the per-class table, each computed from a class's three counts. Imports no torch.

A value that does not exist is None and never 0: the accuracy of a class without images, the
precision of one that was never predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassColumn:
    """A column of the per-class table."""

    name: str
    compute: Callable[[int, int, int | None], float | None]  # (support, correct, predicted)
    share: bool = False  # from 0 to 1, shown as a percentage
    width: int = 0  # a terminal of fewer characters leaves it out


def class_accuracy(support: int, correct: int, predicted: int | None = None) -> float | None:
    """None for a class without images."""
    return correct / support if support else None


def class_precision(support: int, correct: int, predicted: int | None) -> float | None:
    """None for a class that was not predicted; and where the number of predictions is not known, in
    a table of an older version."""
    return correct / predicted if predicted else None


def class_f1(support: int, correct: int, predicted: int | None) -> float | None:
    """None for a class that occurs among neither labels nor predictions; and where the number of
    predictions is not known."""
    if predicted is None or not support + predicted:
        return None
    return 2 * correct / (support + predicted)


CLASS_COLUMNS = (
    ClassColumn("support", lambda support, correct, predicted: support),
    ClassColumn("correct", lambda support, correct, predicted: correct),
    ClassColumn("accuracy", class_accuracy, share=True),
    ClassColumn("predicted", lambda support, correct, predicted: predicted, width=72),
    ClassColumn("precision", class_precision, share=True, width=90),
    ClassColumn("recall", class_accuracy, share=True, width=100),  # the accuracy by its other name
    ClassColumn("f1", class_f1, share=True),
)
