"""Every number that a run reports, in one list: its name, label, direction and how it is computed.

What the model logs, what `checkpoint.monitor` takes and what a terminal shows all follow from here;
the columns of the per-class table, from `columns.py`. A package in `trusted_packages` adds a number
of its own:

    from clf.metrics.measures import Counts, measure

    @measure("acc_worst", label="worst class", best="max")
    def worst_class(counts: Counts):
        seen = counts.support_C > 0
        return (counts.correct_C[seen].double() / counts.support_C[seen]).min()

Imports no torch: the functions use the tensors' own methods.

C classes, M bins of confidence.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOP_K = 5  # k of the second accuracy, where model.top_k does not say
AS_TRAINED = "val_raw"  # where val is of the weights' average: the validation without it
SPLITS = ("train", "val", AS_TRAINED, "test")
NOTHING: Mapping[str, str] = MappingProxyType({})
BINS = 15  # of the calibration error, equally wide, by the probability of the predicted class


@dataclass(frozen=True)
class Counts:
    """What an epoch counted over all ranks; rows of padding count for nothing."""

    support_C: "Tensor"  # int64, images of each class
    correct_C: "Tensor"  # int64, images of each class that were predicted as that class
    predicted_C: "Tensor"  # int64, images that were predicted as each class
    top_k_hits: "Tensor"  # int64, images whose class is among the k largest logits
    loss_sum: "Tensor"  # float64, sum of the images' weighted losses
    weight_sum: "Tensor"  # float64, sum of the images' weights in the loss
    # By confidence, the softmax's probability of the predicted class, in BINS bins:
    bin_images_M: "Tensor"  # int64, images; fewer in all than `support_C` if some were not binned
    bin_correct_M: "Tensor"  # int64, those of them that were predicted as their class
    bin_confidence_M: "Tensor"  # float64, sum of the confidences


@dataclass(frozen=True)
class Measure:
    """A number of an epoch, logged as `<split>/<name>`."""

    name: str  # "{k}" stands for the k of top-k
    label: str  # what a terminal shows
    best: str  # "max" or "min"
    share: bool  # from 0 to 1, shown as a percentage
    compute: Callable[[Counts], Any]  # to a scalar tensor; NaN where the number does not exist
    in_line: bool = True  # shown in the one line of an epoch; the others are logged only
    also: tuple[str, ...] = ()  # other names of the same number, which `checkpoint.monitor` takes

    def with_k(self, k: int | str) -> "Measure":
        name, label = (text.replace("{k}", str(k)) for text in (self.name, self.label))
        return replace(self, name=name, label=label)


_measures: dict[str, Measure] = {}  # in the order in which they are shown


def measure(
    name: str,
    *,
    label: str,
    best: str,
    share: bool = True,
    in_line: bool = True,
    also: tuple[str, ...] = (),
) -> Callable[[Callable[[Counts], Any]], Callable[[Counts], Any]]:
    """Function decorator: each epoch of each split reports what the function returns as
    `<split>/<name>`.

    Args:
        name: letters, digits and underscores
        label: what a terminal shows in front of the value
        best: "max" if larger is better, "min" if smaller is
        share: the value is from 0 to 1 and is shown as a percentage
        in_line: it is shown in the one line that a terminal has for an epoch
        also: other names by which `checkpoint.monitor` knows the number

    Raises:
        ValueError: a name is taken or cannot be used, or `best` is neither "max" nor "min"
    """
    if best not in ("max", "min"):
        raise ValueError(f'@measure("{name}", best={best!r}): expected best="max" or best="min"')
    for own in (name, *also):
        if not re.fullmatch(r"[A-Za-z]\w*", own.replace("{k}", ""), re.ASCII):
            raise ValueError(
                f"@measure({own!r}): expected letters, digits and underscores, beginning with a "
                'letter, such as "acc_worst"'
            )

    def add(compute: Callable[[Counts], Any]) -> Callable[[Counts], Any]:
        for own in (name, *also):
            taken = _measures.get(own) or find(f"val/{own}")
            if taken is not None and _place(taken.compute) != _place(compute):
                raise ValueError(
                    f"@measure({own!r}): this name belongs to {'.'.join(_place(taken.compute))} "
                    "already; choose another one"
                )
        _measures[name] = Measure(name, label, best, share, compute, in_line, also)
        return compute

    return add


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def find(name: str) -> Measure | None:
    """The measure of a name such as "val/acc_top5", its first or another one; None if there is
    none."""
    split, _, own = name.partition("/")
    if split not in SPLITS:
        return None
    k, top_k = re.fullmatch(r"acc_top(\d+)", own), _measures.get("acc_top{k}")
    if k and top_k and own not in _measures:
        return top_k.with_k(k[1])
    named = (one for one in _measures.values() if own in one.also)
    return _measures.get(own) or next(named, None)


def logged_as(name: str) -> str:
    """The name under which a number is logged that `checkpoint.monitor` may call by another one:
    "val/acc_macro" of "val/acc_balanced"."""
    found = find(name)
    return name if found is None else f"{name.partition('/')[0]}/{found.name}"


# --- the numbers of an epoch, in the order in which they are shown --------------------------------


@measure("acc_top1", label="top-1", best="max", also=("recall_weighted",))
def top_1(counts: Counts) -> "Tensor":
    """Also scikit-learn's `recall_score(average="weighted")`, which is the same number."""
    return counts.correct_C.sum().double() / counts.support_C.sum()


@measure("acc_top{k}", label="top-{k}", best="max")
def top_k(counts: Counts) -> "Tensor":
    return counts.top_k_hits.double() / counts.support_C.sum()


@measure("acc_macro", label="macro", best="max", also=("acc_balanced",))
def macro_accuracy(counts: Counts) -> "Tensor":
    """The mean over the classes that have images: scikit-learn's `balanced_accuracy_score`."""
    seen = counts.support_C > 0
    return (counts.correct_C[seen].double() / counts.support_C[seen]).mean()


@measure("f1_macro", label="macro F1", best="max")
def macro_f1(counts: Counts) -> "Tensor":
    return _macro(_f1_C(counts), counts)


@measure("loss", label="loss", best="min", share=False)
def loss(counts: Counts) -> "Tensor":
    return counts.loss_sum / counts.weight_sum


# Averages as scikit-learn's `precision_recall_fscore_support` has them, with `zero_division=0`.


@measure("precision_macro", label="macro precision", best="max", in_line=False)
def macro_precision(counts: Counts) -> "Tensor":
    return _macro(_precision_C(counts), counts)


@measure("recall_macro", label="macro recall", best="max", in_line=False)
def macro_recall(counts: Counts) -> "Tensor":
    """Below `acc_macro` where a class without images was predicted: that class counts as 0."""
    return _macro(counts.correct_C.double() / counts.support_C.clamp(min=1), counts)


@measure("precision_weighted", label="weighted precision", best="max", in_line=False)
def weighted_precision(counts: Counts) -> "Tensor":
    return _weighted(_precision_C(counts), counts)


@measure("f1_weighted", label="weighted F1", best="max", in_line=False)
def weighted_f1(counts: Counts) -> "Tensor":
    return _weighted(_f1_C(counts), counts)


@measure("ece", label="calibration error", best="min", in_line=False)
def calibration_error(counts: Counts) -> "Tensor":
    """Guo et al. 2017, arXiv 1706.04599: how far confidence and accuracy are apart, as the mean
    over the bins, each weighted by its images. NaN if some images of the epoch were not binned:
    they were counted before an interruption by a version without bins."""
    apart_M = (counts.bin_correct_M - counts.bin_confidence_M).abs()
    images, binned = counts.support_C.sum(), counts.bin_images_M.sum()
    return (apart_M.sum() / images).masked_fill(images != binned, math.nan)


def _precision_C(counts: Counts) -> "Tensor":
    return counts.correct_C.double() / counts.predicted_C.clamp(min=1)


def _f1_C(counts: Counts) -> "Tensor":
    return 2 * counts.correct_C.double() / (counts.support_C + counts.predicted_C).clamp(min=1)


def _macro(value_C: "Tensor", counts: Counts) -> "Tensor":
    """The mean over the classes that occur among the labels or the predictions."""
    return value_C[counts.support_C + counts.predicted_C > 0].mean()


def _weighted(value_C: "Tensor", counts: Counts) -> "Tensor":
    """The mean over the classes, each weighted by its images."""
    return (value_C * counts.support_C).sum() / counts.support_C.sum()


# --- what others read -----------------------------------------------------------------------------


def reported(top_k: int = TOP_K, num_classes: int | None = None) -> list[Measure]:
    """The numbers of a model with that many classes (None: not known yet).

    A top-k whose k is not below the number of classes is always 100 %, and with k = 1 it is top-1:
    neither is reported.
    """
    without_k = top_k == 1 or (num_classes is not None and top_k >= num_classes)
    listed = [one for one in _measures.values() if not (without_k and "{k}" in one.name)]
    return [one.with_k(top_k) for one in listed]


def direction(name: str, declared: Mapping[str, str] = NOTHING) -> str:
    """Whether `val/acc_top1` is best at its "max" or its "min".

    Args:
        declared: the numbers that the model logs itself, with their directions

    Raises:
        ValueError: no number of that name is logged
    """
    found = find(name)
    if found is None and name not in declared:
        raise ValueError(f"{name}: expected {listed(reported(), declared)}")
    return found.best if found else declared[name]


def monitors(measures: Sequence[Measure], splits: Sequence[str] = ("val", "train")) -> list[str]:
    """What `checkpoint.monitor` may name: each number of the validation and of the training."""
    names = [name for one in measures for name in (one.name, *one.also)]
    return [f"{split}/{name}" for split in splits for name in names]


def listed(measures: Sequence[Measure], declared: Iterable[str] = ()) -> str:
    """The same for a message, with those that the model declares."""
    names = [*declared, *monitors(measures, ("val",))]
    return f"one of {', '.join(names)}, or the same of train/"


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
    """`top-1 98.6 %   top-5 100.0 %   macro 98.5 %   loss 0.062`: a split's numbers in short.

    Args:
        split: one of `SPLITS`, or what data without splits are called
    """
    order = [one.compute for one in _measures.values()]
    named = {
        name.replace(f"{split}/", "test/", 1): value
        for name, value in scalars.items()
        if name.startswith(f"{split}/")
    }
    found = {name: find(name) for name in named}
    known = [(name, one) for name, one in found.items() if one is not None and one.in_line]
    known.sort(key=lambda pair: order.index(pair[1].compute))
    return "   ".join(f"{one.label} {shown(name, named[name])}" for name, one in known)
