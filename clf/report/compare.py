"""Whether one network is better than another on the same images, or only luckier.

Both networks have seen the same images, so what counts is the image that one gets right and the
other does not. C classes; R resamples.

The 95 % interval of a difference is that of the paired bootstrap (Efron and Tibshirani 1993):
images are drawn again with replacement, within each class, and both networks are scored on what was
drawn. Whether a class differs is judged by the exact McNemar test (Dietterich 1998), since the
bootstrap of a class of two images knows no doubt; over all classes together by Benjamini and
Hochberg (1995), so that of the classes that are said to differ 5 % are expected not to.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from clf.config.saved import flat
from clf.predictions import UNKNOWN, Predictions

RESAMPLES = 5000
LEVEL = 0.05  # of the intervals, and of false discoveries


@dataclass(frozen=True)
class Difference:
    """An accuracy of both networks; shares from 0 to 1."""

    name: str
    support: int  # images
    first: float
    second: float
    low: float  # of the 95 % interval of second - first
    high: float
    more_than_noise: bool

    @property
    def difference(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """The second network beside the first."""

    overall: list[Difference]  # top-1 and macro
    classes: list[Difference]  # of those that have images, in label order
    images: int  # that both were scored on
    notes: list[str] = field(default_factory=list)

    @property
    def clear(self) -> list[Difference]:
        """The classes whose difference is more than noise, the largest first."""
        found = [one for one in self.classes if one.more_than_noise]
        return sorted(found, key=lambda one: -abs(one.difference))


def compare(first: Predictions, second: Predictions, seed: int = 0) -> Comparison:
    """Compare two networks image by image.

    Args:
        seed: of the resamples

    Raises:
        ValueError: there is no image that both were scored on
    """
    rows_one, rows_two, notes = _pairs(first, second)
    labels_N = first.labels_N[rows_one]
    right_one_N = first.predicted_N[rows_one] == labels_N
    names = np.array([*first.classes, ""], dtype=object)
    others = np.array([*second.classes, ""], dtype=object)
    right_two_N = others[second.predicted_N[rows_two]] == names[labels_N]
    C = len(first.classes)
    # A row a class: images that the second alone gets right, that the first alone does, the others
    gained_C = np.bincount(labels_N[right_two_N & ~right_one_N], minlength=C)
    lost_C = np.bincount(labels_N[right_one_N & ~right_two_N], minlength=C)
    support_C = np.bincount(labels_N, minlength=C)
    seen = np.flatnonzero(support_C)
    support_c, gained_c, lost_c = support_C[seen], gained_C[seen], lost_C[seen]
    right_c = np.bincount(labels_N[right_one_N], minlength=C)[seen]
    change_Rc = _resampled(support_c, gained_c, lost_c, seed)
    clear_c = _clear(gained_c, lost_c)
    first_c, second_c = right_c / support_c, (right_c + gained_c - lost_c) / support_c
    shares_Rc = change_Rc / support_c
    low_c, high_c = _interval(shares_Rc)
    classes = [
        Difference(*row)
        for row in zip(
            [first.classes[label] for label in seen],
            support_c.tolist(),
            first_c.tolist(),
            second_c.tolist(),
            low_c.tolist(),
            high_c.tolist(),
            clear_c.tolist(),
            strict=True,
        )
    ]
    N = int(support_c.sum())
    overall = [
        _overall("top-1", N, right_one_N.mean(), right_two_N.mean(), change_Rc.sum(axis=1) / N),
        _overall("macro", N, first_c.mean(), second_c.mean(), shares_Rc.mean(axis=1)),
    ]
    return Comparison(overall, classes, N, notes)


def _overall(name: str, images: int, one: float, two: float, changes_R: np.ndarray) -> Difference:
    low, high = _interval(changes_R[:, None])
    clear = bool(low[0] > 0 or high[0] < 0)
    return Difference(name, images, float(one), float(two), float(low[0]), float(high[0]), clear)


def _resampled(
    support_c: np.ndarray, gained_c: np.ndarray, lost_c: np.ndarray, seed: int
) -> np.ndarray:
    """[R, c], images gained less images lost in each resample. To draw the images of a class again
    is to draw how many of each of three kinds there are: a multinomial distribution."""
    rng = np.random.default_rng(seed)
    kinds_c3 = np.stack([gained_c, lost_c, support_c - gained_c - lost_c], axis=1)
    drawn_Rc3 = rng.multinomial(
        support_c, kinds_c3 / support_c[:, None], size=(RESAMPLES, len(support_c))
    )
    return drawn_Rc3[..., 0] - drawn_Rc3[..., 1]


def _interval(values_Rc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.percentile(values_Rc, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)], axis=0)
    return low, high


def _clear(gained_c: np.ndarray, lost_c: np.ndarray) -> np.ndarray:
    from scipy import stats

    discordant_c = gained_c + lost_c
    fewer_c = np.minimum(gained_c, lost_c)
    p_c = np.minimum(1.0, 2 * stats.binom.cdf(fewer_c, discordant_c, 0.5))
    return stats.false_discovery_control(p_c) <= LEVEL


def _pairs(first: Predictions, second: Predictions) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of both that are of the same images, and what is left out, in words."""
    places = {path: row for row, path in enumerate(second.images)}
    pairs = [(row, places[path]) for row, path in enumerate(first.images) if path in places]
    notes = []
    if not pairs:  # the data may have been moved between the runs
        moved = dict(zip(_within(second.images), range(len(second)), strict=True))
        inside = _within(first.images)
        pairs = [(row, moved[path]) for row, path in enumerate(inside) if path in moved]
        if pairs:
            notes.append("the images lie in other folders; they are paired by their paths in these")
    rows = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    alike = [
        first.labels_N[a] != UNKNOWN
        and second.labels_N[b] != UNKNOWN
        and first.classes[first.labels_N[a]] == second.classes[second.labels_N[b]]
        for a, b in rows
    ]
    if count := len(alike) - sum(alike):
        notes.append(f"{count} images have another class in the two runs, or none: left out")
    rows = rows[np.array(alike, dtype=bool)]
    if not len(rows):
        raise ValueError(
            f"no image was scored by both: {_example(first)} and {_example(second)}. Score one on "
            "the other's images: launch/evaluate.py RUN data.root=FOLDER"
        )
    for of, name in ((first, "first"), (second, "second")):
        if left := len(of) - len(rows):
            notes.append(f"{left} of the {len(of)} images of the {name} run are not compared")
    return rows[:, 0], rows[:, 1], notes


def _within(paths: list[str]) -> list[str]:
    """The paths from the folder on that they all are in."""
    folder = os.path.commonpath(paths) if all(map(os.path.isabs, paths)) else ""
    return [os.path.relpath(path, folder) if folder else path for path in paths]


def _example(predictions: Predictions) -> str:
    return f"{len(predictions)} images such as {predictions.images[0]}"


def different_settings(
    first: dict[str, object], second: dict[str, object]
) -> Iterator[tuple[str, object, object]]:
    """(key, first, second) of each setting in which two runs differ, apart from their names."""
    one, two = flat(first), flat(second)
    for key in dict.fromkeys([*one, *two]):
        if one.get(key) != two.get(key) and key not in ("name", "runs_dir", "tracking.group"):
            yield key, one.get(key), two.get(key)
