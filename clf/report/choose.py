"""Which images of an evaluation are worth seeing."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clf.predictions import UNKNOWN, Predictions

WORST = 24  # images of each list
CONFUSIONS = 30  # pairs of classes
EXAMPLES = 8  # images of a pair


class Confusion(NamedTuple):
    """Images of the class `label` that were predicted as the class `predicted`."""

    label: int
    predicted: int
    count: int
    rows: Sequence[int]  # of the predictions, the most confident first; `EXAMPLES` at most


def confidently_wrong(predictions: Predictions) -> list[int]:
    """Rows of wrong predictions, the most confident first."""
    wrong_n = np.flatnonzero(_wrong(predictions))
    return _by_confidence(predictions, wrong_n)[:WORST]


def least_certain(predictions: Predictions) -> list[int]:
    """Rows in which the two most probable classes are closest, right or wrong."""
    if len(predictions.classes) < 2:
        return []
    second_N, first_N = np.partition(predictions.probabilities_NC, -2, axis=1)[:, -2:].T
    return np.argsort(first_N - second_N, kind="stable")[:WORST].tolist()


def largest_confusions(predictions: Predictions, most: int = CONFUSIONS) -> list[Confusion]:
    """The pairs of classes that are confused most often, the largest first."""
    C = len(predictions.classes)
    wrong_n = np.flatnonzero(_wrong(predictions))
    pair_n = predictions.labels_N[wrong_n] * C + predictions.predicted_N[wrong_n]
    pairs, counts = np.unique(pair_n, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        Confusion(
            int(pair) // C,
            int(pair) % C,
            int(count),
            _by_confidence(predictions, wrong_n[pair_n == pair])[:EXAMPLES],
        )
        for pair, count in zip(pairs[order], counts[order], strict=True)
    ]


def worth_seeing(predictions: Predictions) -> list[int]:
    """Positions in the split of all images that a report shows."""
    rows = set(confidently_wrong(predictions)) | set(least_certain(predictions))
    rows.update(row for pair in largest_confusions(predictions) for row in pair.rows)
    return sorted(predictions.indices_N[sorted(rows)].tolist())


def _wrong(predictions: Predictions) -> np.ndarray:
    known_N = predictions.labels_N != UNKNOWN
    return known_N & (predictions.labels_N != predictions.predicted_N)


def _by_confidence(predictions: Predictions, rows_n: np.ndarray) -> list[int]:
    order = np.argsort(-predictions.confidence_N[rows_n], kind="stable")
    return rows_n[order].tolist()
