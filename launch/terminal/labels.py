"""Shows the labels that a network gives to images: each of a few, a summary of many."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clf.config.faults import one_line
from clf.metrics.measures import percent
from launch.terminal.screen import print_columns

if TYPE_CHECKING:
    from clf.scoring import Labelled

FEW = 10  # images that are shown one by one
MOST_CLASSES = 15  # lines of the summary
LEAST_CERTAIN = 5


def print_labels(out: Any, labelled: "Labelled", seconds: float) -> None:
    """A line for each of a few images; of many, the classes and what is least certain.

    Args:
        seconds: that it took, the start of the network included
    """
    count = len(labelled.images)
    out.print()
    if count <= FEW:
        _print_images(out, labelled, range(count))
    else:
        _print_classes(out, labelled)
        out.print("\nleast certain", style="bold")
        order = labelled.probabilities_NK[:, 0].argsort(kind="stable")
        _print_images(out, labelled, order[:LEAST_CERTAIN].tolist())
    views = f", mean of {' and '.join(labelled.views)}" if len(labelled.views) > 1 else ""
    images = "1 image" if count == 1 else f"{count:,} images"
    took = f" in {seconds:.1f} s" if count > FEW else ""
    out.print(f"\n{images}{took} by {labelled.checkpoint}{views}", markup=False, style="dim")


def print_unread(unread: Mapping[str, str]) -> None:
    """Every path of which nothing was labelled, and why, on standard error."""
    for path, reason in unread.items():
        said = reason if reason.startswith(path) else f"{path}: {reason}"
        print(f"not labelled: {one_line(said)}", file=sys.stderr)
    if len(unread) > 1:
        print(f"{len(unread)} paths gave no label", file=sys.stderr)


def _print_images(out: Any, labelled: "Labelled", places: Any) -> None:
    rows = []
    for place in places:
        names = [one_line(labelled.classes[c]) for c in labelled.top_NK[place]]
        shares = [percent(float(value)) for value in labelled.probabilities_NK[place]]
        others = [f"{name} {share}" for name, share in zip(names, shares, strict=True)][1:]
        rows.append([one_line(labelled.images[place]), names[0], shares[0], ", ".join(others)])
    if rows:
        print_columns(out, ["image", "label", "probability", "then"], rows)


def _print_classes(out: Any, labelled: "Labelled") -> None:
    import numpy as np

    predicted_N, confidence_N = labelled.top_NK[:, 0], labelled.probabilities_NK[:, 0]
    counts_C = np.bincount(predicted_N, minlength=len(labelled.classes))
    order = [c for c in (-counts_C).argsort(kind="stable").tolist() if counts_C[c]]
    rows = [
        [
            one_line(labelled.classes[c]),
            f"{counts_C[c]:,}",
            percent(float(confidence_N[predicted_N == c].mean())),
        ]
        for c in order[:MOST_CLASSES]
    ]
    print_columns(out, ["label", "images", "mean probability"], rows)
    if len(order) > MOST_CLASSES:
        rest = int(counts_C[order[MOST_CLASSES:]].sum())
        out.print(f"{len(order) - MOST_CLASSES} more labels, {rest:,} images", style="dim")
