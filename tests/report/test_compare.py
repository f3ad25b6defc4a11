"""Which of two networks is better, and which differences are only noise."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from clf.predictions import Predictions
from clf.report.compare import compare, different_settings


def scored(
    right_N: np.ndarray, labels_N: np.ndarray, C: int, root: str = "/data", split: str = "test"
) -> Predictions:
    """A network that is right where it is said to be."""
    predicted_N = np.where(right_N, labels_N, (labels_N + 1) % C)
    N = len(labels_N)
    return Predictions(
        split,
        [f"c{number}" for number in range(C)],
        [f"{root}/{label}/{row}.jpg" for row, label in enumerate(labels_N)],
        np.arange(N),
        labels_N,
        predicted_N,
        np.eye(C, dtype=np.float32)[predicted_N],
    )


def two_networks(seed: int, N: int, C: int, better: float) -> tuple[Predictions, Predictions]:
    """The second is right `better` more often on class 0, and as often on the others."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(C, size=N)
    one_N, two_N = rng.random(N) < 0.7, rng.random(N) < 0.7 + better * (labels_N == 0)
    return scored(one_N, labels_N, C), scored(two_N, labels_N, C)


def test_interval_and_difference_are_those_of_scipy() -> None:
    one, two = two_networks(1, 900, 3, 0.2)
    found = compare(one, two).classes[0]
    rows = one.labels_N == 0
    right = [(p.predicted_N == p.labels_N)[rows].astype(float) for p in (one, two)]
    assert found.difference == pytest.approx(right[1].mean() - right[0].mean())
    scipys = stats.bootstrap(
        right, lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis), paired=True,
        vectorized=True, method="percentile", n_resamples=5000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx(tuple(scipys), abs=0.012)


def test_a_class_that_is_clearly_better_is_found_and_no_other() -> None:
    found = compare(*two_networks(2, 4000, 8, 0.25))
    assert [one.name for one in found.clear] == ["c0"]
    assert found.clear[0].low > 0.1
    top_1, macro = found.overall
    assert (top_1.name, macro.name) == ("top-1", "macro")
    assert top_1.more_than_noise
    assert macro.difference == pytest.approx(np.mean([one.difference for one in found.classes]))


def test_networks_that_do_not_differ_are_rarely_said_to() -> None:
    """The interval of top-1 leaves 0 out in about 5 of 100 cases, and a class is named in about as
    many, whatever their number."""
    found = [compare(*two_networks(seed, 400, 10, 0.0), seed=seed) for seed in range(200)]
    assert 0.01 <= np.mean([one.overall[0].more_than_noise for one in found]) <= 0.10
    assert np.mean([bool(one.clear) for one in found]) <= 0.08


def test_two_images_of_a_class_prove_nothing() -> None:
    labels_N = np.array([0, 0, 1, 1, 1])
    one = scored(np.array([False, False, True, True, True]), labels_N, 2)
    two = scored(np.ones(5, bool), labels_N, 2)
    rare = compare(one, two).classes[0]
    assert (rare.first, rare.second) == (0.0, 1.0)
    assert not rare.more_than_noise


def test_the_verdict_is_mcnemars() -> None:
    labels_N = np.zeros(40, np.int64)
    for gained, expected in ((8, True), (7, False)):  # and one is lost: p is 0.039 and 0.070
        one_N, two_N = np.ones(40, bool), np.ones(40, bool)
        one_N[:gained], two_N[gained : gained + 1] = False, False
        p = stats.binomtest(1, gained + 1).pvalue
        assert (p <= 0.05) == expected
        found = compare(scored(one_N, labels_N, 2), scored(two_N, labels_N, 2))
        assert found.classes[0].more_than_noise == expected


def test_images_are_paired_by_path_in_any_order_and_the_rest_is_said() -> None:
    one, two = two_networks(4, 100, 3, 0.1)
    order = np.random.default_rng(0).permutation(100)[:80]
    fewer = Predictions(
        "test", two.classes, [two.images[row] for row in order], two.indices_N[order],
        two.labels_N[order], two.predicted_N[order], two.probabilities_NC[order],
    )  # fmt: skip
    found = compare(one, fewer)
    assert found.images == 80
    assert found.notes == ["20 of the 100 images of the first run are not compared"]
    rows = np.sort(order)
    expected = (two.predicted_N == two.labels_N)[rows].mean()
    assert found.overall[0].second == pytest.approx(expected)


def test_data_that_were_moved_are_paired_within_their_folder() -> None:
    one, two = two_networks(5, 60, 3, 0.1)
    elsewhere = scored(two.predicted_N == two.labels_N, two.labels_N, 3, root="/scratch/copy")
    found = compare(one, elsewhere)
    assert found.images == 60
    assert "other folders" in found.notes[0]


def test_runs_on_different_images_are_refused_with_what_to_do() -> None:
    one, two = two_networks(6, 30, 3, 0.0)
    other = Predictions(
        "test", two.classes, [f"/data/x/{row}.png" for row in range(30)], two.indices_N,
        two.labels_N, two.predicted_N, two.probabilities_NC,
    )  # fmt: skip
    with pytest.raises(ValueError, match="no image was scored by both.*evaluate.py"):
        compare(one, other)


def test_classes_are_compared_by_name_whatever_their_order() -> None:
    one, two = two_networks(7, 90, 3, 0.1)
    turned = Predictions(
        "test", two.classes[::-1], two.images, two.indices_N, 2 - two.labels_N,
        2 - two.predicted_N, two.probabilities_NC[:, ::-1],
    )  # fmt: skip
    assert compare(one, turned) == compare(one, two)


def test_settings_that_differ_are_named_and_the_names_are_not() -> None:
    one = {"name": "a", "seed": 0, "model": {"learning_rate": 1e-3, "momentum": 0.9}}
    two = {"name": "b", "seed": 1, "model": {"learning_rate": 1e-3}}
    assert list(different_settings(one, two)) == [("seed", 0, 1), ("model.momentum", 0.9, None)]


def test_a_thousand_classes_take_no_minute(tmp_path: Path) -> None:
    found = compare(*two_networks(8, 20_000, 1000, 0.0))
    assert len(found.classes) == 1000
