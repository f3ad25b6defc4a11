"""Every number that a run reports, in one list: its name, label, direction and how it is computed.

What the model logs, what `checkpoint.monitor` takes, what a terminal shows and the columns of the
per-class table all follow from here. A package in `trusted_packages` adds a number of its own:

    from clf.metrics.measures import Counts, measure

    @measure("acc_worst", label="worst class", best="max")
    def worst_class(counts: Counts):
        seen = counts.support_C > 0
        return (counts.correct_C[seen].double() / counts.support_C[seen]).min()

Imports no torch: the functions use the tensors' own methods.

C classes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOP_K = 5  # k of the second accuracy, where model.top_k does not say
AS_TRAINED = "val_raw"  # where val is of the weights' average: the validation without it
SPLITS = ("train", "val", AS_TRAINED, "test")


@dataclass(frozen=True)
class Counts:
    """What an epoch counted over all ranks; rows of padding count for nothing."""

    support_C: "Tensor"  # int64, images of each class
    correct_C: "Tensor"  # int64, images of each class that were predicted as that class
    predicted_C: "Tensor"  # int64, images that were predicted as each class
    top_k_hits: "Tensor"  # int64, images whose class is among the k largest logits
    loss_sum: "Tensor"  # float64, sum of the images' weighted losses
    weight_sum: "Tensor"  # float64, sum of the images' weights in the loss


@dataclass(frozen=True)
class Measure:
    """A number of an epoch, logged as `<split>/<name>`."""

    name: str  # "{k}" stands for the k of top-k
    label: str  # what a terminal shows
    best: str  # "max" or "min"
    share: bool  # from 0 to 1, shown as a percentage
    compute: Callable[[Counts], Any]  # to a scalar tensor; NaN where the number does not exist

    def with_k(self, k: int | str) -> "Measure":
        name, label = (text.replace("{k}", str(k)) for text in (self.name, self.label))
        return replace(self, name=name, label=label)


_measures: dict[str, Measure] = {}  # in the order in which they are shown


def measure(
    name: str, *, label: str, best: str, share: bool = True
) -> Callable[[Callable[[Counts], Any]], Callable[[Counts], Any]]:
    """Function decorator: each epoch of each split reports what the function returns as
    `<split>/<name>`.

    Args:
        name: letters, digits and underscores
        label: what a terminal shows in front of the value
        best: "max" if larger is better, "min" if smaller is
        share: the value is from 0 to 1 and is shown as a percentage

    Raises:
        ValueError: the name is taken or cannot be used, or `best` is neither "max" nor "min"
    """
    if best not in ("max", "min"):
        raise ValueError(f'@measure("{name}", best={best!r}): expected best="max" or best="min"')
    if not re.fullmatch(r"[A-Za-z]\w*", name.replace("{k}", ""), re.ASCII):
        raise ValueError(
            f"@measure({name!r}): expected letters, digits and underscores, beginning with a "
            'letter, such as "acc_balanced"'
        )

    def add(compute: Callable[[Counts], Any]) -> Callable[[Counts], Any]:
        taken = _measures.get(name) or find(f"val/{name}")
        if taken is not None and _place(taken.compute) != _place(compute):
            raise ValueError(
                f"@measure({name!r}): this name belongs to {'.'.join(_place(taken.compute))} "
                "already; choose another one"
            )
        _measures[name] = Measure(name, label, best, share, compute)
        return compute

    return add


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def find(name: str) -> Measure | None:
    """The measure that is logged as `name`, such as "val/acc_top5"; None if there is none."""
    split, _, own = name.partition("/")
    if split not in SPLITS:
        return None
    k, top_k = re.fullmatch(r"acc_top(\d+)", own), _measures.get("acc_top{k}")
    if k and top_k and own not in _measures:
        return top_k.with_k(k[1])
    return _measures.get(own)


# --- the numbers of an epoch, in the order in which they are shown --------------------------------


@measure("acc_top1", label="top-1", best="max")
def top_1(counts: Counts) -> "Tensor":
    return counts.correct_C.sum().double() / counts.support_C.sum()


@measure("acc_top{k}", label="top-{k}", best="max")
def top_k(counts: Counts) -> "Tensor":
    return counts.top_k_hits.double() / counts.support_C.sum()


@measure("acc_macro", label="macro", best="max")
def macro_accuracy(counts: Counts) -> "Tensor":
    """The mean over the classes that have images."""
    seen = counts.support_C > 0
    return (counts.correct_C[seen].double() / counts.support_C[seen]).mean()


@measure("f1_macro", label="macro F1", best="max")
def macro_f1(counts: Counts) -> "Tensor":
    """scikit-learn's `f1_score(average="macro")`: the mean over the classes that occur among the
    labels or the predictions."""
    occurrences_C = counts.support_C + counts.predicted_C
    occurs = occurrences_C > 0
    return (2 * counts.correct_C[occurs].double() / occurrences_C[occurs]).mean()


@measure("loss", label="loss", best="min", share=False)
def loss(counts: Counts) -> "Tensor":
    return counts.loss_sum / counts.weight_sum


# --- the columns of the per-class table -----------------------------------------------------------


@dataclass(frozen=True)
class ClassColumn:
    """A column of the per-class table, computed from a class's counts."""

    name: str
    compute: Callable[[int, int, int | None], float | None]  # (support, correct, predicted)
    share: bool = False  # from 0 to 1, shown as a percentage
    always: bool = True  # False: a narrow terminal leaves it out


def class_accuracy(support: int, correct: int, predicted: int | None) -> float | None:
    """None for a class without images."""
    return correct / support if support else None


def class_f1(support: int, correct: int, predicted: int | None) -> float | None:
    """None for a class that occurs among neither labels nor predictions; and where the number of
    predictions is not known, in a table of an older version."""
    if predicted is None or not support + predicted:
        return None
    return 2 * correct / (support + predicted)


CLASS_COLUMNS = (
    ClassColumn("support", lambda support, correct, predicted: support),
    ClassColumn("correct", lambda support, correct, predicted: correct),
    ClassColumn("accuracy", class_accuracy, share=True),
    ClassColumn("predicted", lambda support, correct, predicted: predicted, always=False),
    ClassColumn("f1", class_f1, share=True),
)


# --- what others read -----------------------------------------------------------------------------


def reported(top_k: int = TOP_K, num_classes: int | None = None) -> list[Measure]:
    """The numbers of a model with that many classes (None: not known yet).

    A top-k whose k is not below the number of classes is always 100 %, and with k = 1 it is top-1:
    neither is reported.
    """
    without_k = top_k == 1 or (num_classes is not None and top_k >= num_classes)
    listed = [one for one in _measures.values() if not (without_k and "{k}" in one.name)]
    return [one.with_k(top_k) for one in listed]


def direction(name: str) -> str:
    """Whether `val/acc_top1` is best at its "max" or its "min".

    Raises:
        ValueError: no number of that name is reported
    """
    found = find(name)
    if found is None:
        raise ValueError(f"{name}: expected one of {', '.join(monitors(reported()))}")
    return found.best


def monitors(measures: Sequence[Measure]) -> list[str]:
    """What `checkpoint.monitor` may name: each number of the validation and of the training."""
    return [f"{split}/{one.name}" for split in ("val", "train") for one in measures]


def percent(share: float | None, digits: int = 1, missing: str = "n/a") -> str:
    """A share from 0 to 1 as `97.1 %`; `missing` where it does not exist."""
    return missing if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def shown(name: str, value: float) -> str:
    """The value of `val/acc_top1` as a terminal shows it: `97.1 %`, or `0.1235` of a loss."""
    found = find(name)
    return percent(value) if found is not None and found.share else f"{value:.4g}"


def as_trained(scalars: Mapping[str, float]) -> str:
    """`   as trained top-1 98.4 %` of a run that averages its weights; else empty."""
    name = f"{AS_TRAINED}/acc_top1"
    return f"   as trained {line({name: scalars[name]}, AS_TRAINED)}" if name in scalars else ""


def line(scalars: Mapping[str, float], split: str) -> str:
    """`top-1 98.6 %   top-5 100.0 %   macro 98.5 %   loss 0.062`, of all numbers of a split."""
    order = [one.compute for one in _measures.values()]
    found = {name: find(name) for name in scalars if name.startswith(f"{split}/")}
    known = [(name, one) for name, one in found.items() if one is not None]
    known.sort(key=lambda pair: order.index(pair[1].compute))
    return "   ".join(f"{one.label} {shown(name, scalars[name])}" for name, one in known)
