"""The predictions of one evaluation, image by image: what a report, a comparison and a search for
wrong labels are made of. Imports no torch.

N images, C classes.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clf.atomic import write_file

UNKNOWN = -1  # the label of an image whose class nobody has given
BETWEEN = "\0"  # names of files hold any other character
WORST = 24  # images of each list
CONFUSIONS = 30  # pairs of classes
EXAMPLES = 8  # images of a pair


@dataclass(frozen=True)
class Predictions:
    """What a network said of each image of a split, in the order of the split.

    Attributes:
        split: "train", "val" or "test"
        classes: C names in label order
        images: N paths as they were given; an image that has no file has words for it
        indices_N: int64, position of each image in the split
        labels_N: int64, a class or `UNKNOWN`
        predicted_N: int64, the class with the largest logit
        probabilities_NC: float32, the softmax of the logits, computed in float32
    """

    split: str
    classes: list[str]
    images: list[str]
    indices_N: np.ndarray
    labels_N: np.ndarray
    predicted_N: np.ndarray
    probabilities_NC: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def confidence_N(self) -> np.ndarray:
        """float32, the probability of the predicted class."""
        return self.probabilities_NC[np.arange(len(self)), self.predicted_N]

    def confusion(self, most: int) -> tuple[np.ndarray, list[list[int]]]:
        """int64 [D, D]: images of the i-th group of classes that were predicted as one of the j-th;
        and the labels of each group, [first, last + 1].

        Args:
            most: groups; fewer classes have one each, of more some neighbours are added up, since
                the counts of all pairs of ImageNet-21k's classes would take 3.8 GB
        """
        C = len(self.classes)
        edges = np.linspace(0, C, min(C, most) + 1).round().astype(int)
        size, known_N = len(edges) - 1, self.labels_N != UNKNOWN
        groups_C = np.repeat(np.arange(size), np.diff(edges))
        pair_n = groups_C[self.labels_N[known_N]] * size + groups_C[self.predicted_N[known_N]]
        counts_DD = np.bincount(pair_n, minlength=size**2).reshape(size, size)
        return counts_DD, [[int(a), int(b)] for a, b in zip(edges, edges[1:], strict=False)]

    def class_counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(images of each class, those of them that are right, images that were predicted as each
        class), int64 [C]; images whose class is not known count for nothing."""
        known_N = self.labels_N != UNKNOWN
        labels_n, predicted_n = self.labels_N[known_N], self.predicted_N[known_N]
        counted = labels_n, labels_n[labels_n == predicted_n], predicted_n
        support_C, correct_C, predicted_C = (
            np.bincount(each, minlength=len(self.classes)) for each in counted
        )
        return support_C, correct_C, predicted_C

    def calibration(self, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(images, those of them that are right, sum of their confidences), each [bins], by equally
        wide bins of confidence that include their upper end, as in Guo et al. 2017."""
        known_N = self.labels_N != UNKNOWN
        confidence_n = self.confidence_N[known_N].astype(np.float64)
        right_n = self.predicted_N[known_N] == self.labels_N[known_N]
        bin_n = np.clip(np.ceil(confidence_n * bins).astype(np.int64) - 1, 0, bins - 1)
        images, right, confidence = (
            np.bincount(bin_n, weights=weights_n, minlength=bins)
            for weights_n in (None, right_n, confidence_n)
        )
        return images, right, confidence

    def write(self, path: Path) -> None:
        """An .npz file, whole or not at all. Names are stored as bytes, so that those that are no
        UTF-8 come back as they were."""
        arrays: dict[str, Any] = {
            "split": np.array(self.split),
            "classes": _as_bytes(self.classes),
            "images": _as_bytes(self.images),
            "indices_N": self.indices_N,
            "labels_N": self.labels_N,
            "predicted_N": self.predicted_N,
            "probabilities_NC": self.probabilities_NC,
        }

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:  # given a name, NumPy would put ".npz" behind it
                np.savez_compressed(file, **arrays)

        write_file(path, write)

    def write_csv(self, path: Path) -> None:
        """A row an image: image, label, predicted, probability (of the predicted class), and
        probability/<class> of each class. As many digits as float32 needs to be read back."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # The bytes of names that are no UTF-8 stay as they are.
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            of_each = [f"probability/{name}" for name in self.classes]
            writer.writerow(["image", "label", "predicted", "probability", *of_each])
            for image, label, predicted, probabilities_C in zip(
                self.images, self.labels_N, self.predicted_N, self.probabilities_NC, strict=True
            ):
                name = "" if label == UNKNOWN else self.classes[label]
                texts = [f"{value:.9g}" for value in probabilities_C.tolist()]
                writer.writerow([image, name, self.classes[predicted], texts[predicted], *texts])

    @staticmethod
    def read(path: Path) -> "Predictions":
        """What `write` wrote.

        Raises:
            FileNotFoundError: there is no such file
            ValueError: it is not such a file, or only a part of one
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return Predictions(
                str(arrays.pop("split")),
                _as_names(arrays.pop("classes")),
                _as_names(arrays.pop("images")),
                **arrays,
            )
        except FileNotFoundError:
            raise
        except Exception as error:  # NumPy, zipfile and zlib have an error of their own for each
            raise ValueError(
                f"{path} is not a whole file of predictions ({type(error).__name__}: {error}); "
                "launch/evaluate.py RUN writes it again"
            ) from None


# --- which images are worth seeing ----------------------------------------------------------------


class Confusion(NamedTuple):
    """Images of the class `label` that were predicted as the class `predicted`."""

    label: int
    predicted: int
    images: int
    rows: Sequence[int]  # of the predictions, the most confident first, up to `EXAMPLES`


def confidently_wrong(predictions: Predictions, most: int | None = WORST) -> list[int]:
    """Rows of wrong predictions, the most confident first; all of them if `most` is None."""
    wrong_n = np.flatnonzero(_wrong(predictions))
    return _by_confidence(predictions, wrong_n)[:most]


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


# --- names in a file ------------------------------------------------------------------------------


def _as_bytes(names: Sequence[str]) -> np.ndarray:
    return np.frombuffer(os.fsencode(BETWEEN.join(names)), dtype=np.uint8)


def _as_names(stored: np.ndarray) -> list[str]:
    """Neither images nor classes are ever none: a split without images is not evaluated."""
    return os.fsdecode(stored.tobytes()).split(BETWEEN)
