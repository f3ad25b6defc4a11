"""Evaluation is exact on any number of ranks: real processes over gloo, started once for all cases.

The reference is NumPy over all images' logits, which knows nothing of ranks, batches or padding.
"""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support
from torch import nn
from torchmetrics.classification import MulticlassCalibrationError

from clf.batch import PADDING
from clf.data.sampler import EvalSampler
from clf.metrics.counts import BadLabelError, ClassificationMetrics
from clf.metrics.measures import logged_as
from clf.parallel.batchnorm import average_over_ranks, statistics

BATCH = 3


def logits_and_labels(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of `images` images, of which about a third of the classes has none."""
    rng = np.random.default_rng(seed)
    present = rng.choice(classes, max(1, 2 * classes // 3), replace=False)
    logits = rng.standard_normal((images, classes)).astype(np.float32)
    return logits, rng.choice(present, images)


def evaluate(rank: int, world: int, images: int, classes: int, seed: int) -> ClassificationMetrics:
    """What one rank adds up, each rank a node."""
    logits, labels = (torch.from_numpy(a) for a in logits_and_labels(images, classes, seed))
    metrics = ClassificationMetrics(classes, min(5, classes), num_nodes=world, node_rank=rank)
    for micro in EvalSampler(images, BATCH, rank, world):
        rows = torch.from_numpy(micro.indices_m)
        padding = rows == PADDING
        logits_BC = torch.where(padding[:, None], torch.nan, logits[rows])
        labels_B = torch.where(padding, PADDING, labels[rows])
        losses = F.cross_entropy(logits_BC, labels_B, ignore_index=PADDING, reduction="sum")
        metrics.update(logits_BC, labels_B, losses, (~padding).sum(), rows)
    return metrics


def assert_exact(result: dict[str, Any], images: int, classes: int, seed: int) -> None:
    logits, labels = logits_and_labels(images, classes, seed)
    z = logits.astype(np.float64)
    predicted = logits.argmax(1)
    right = predicted == labels
    top_k = np.argsort(-logits, axis=1, kind="stable")[:, : min(5, classes)]
    losses = np.log(np.exp(z).sum(1)) - z[np.arange(images), labels]
    support = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[right], minlength=classes)
    np.testing.assert_array_equal(np.array(result["support_NC"]).sum(0), support)
    np.testing.assert_array_equal(np.array(result["correct_NC"]).sum(0), correct)
    counted = np.bincount(predicted, minlength=classes)
    np.testing.assert_array_equal(result["predicted_C"], counted)
    assert result["acc_top1"] == right.sum() / images
    if classes > 5:
        assert result["acc_top5"] == (top_k == labels[:, None]).any(1).sum() / images
    else:
        assert "acc_top5" not in result, "it would always be 1"
    macro = (correct[support > 0] / support[support > 0]).mean()
    assert result["acc_macro"] == pytest.approx(macro, abs=1e-12)
    assert_scikit_learns(result, labels, predicted)
    reference = MulticlassCalibrationError(classes, n_bins=15, norm="l1", validate_args=False)
    # Probabilities, because it takes logits that happen to be between 0 and 1 for some.
    ece = reference(torch.from_numpy(logits).double().softmax(dim=1), torch.from_numpy(labels))
    assert result["ece"] == pytest.approx(float(ece), abs=1e-6)
    assert result["loss"] == pytest.approx(losses.mean(), abs=1e-6)


def assert_scikit_learns(result: dict[str, Any], labels: np.ndarray, predicted: np.ndarray) -> None:
    for average in ("macro", "weighted"):
        scores = precision_recall_fscore_support(
            labels, predicted, average=average, zero_division=0
        )
        for name, score in zip(("precision", "recall", "f1"), scores, strict=False):
            logged = logged_as(f"val/{name}_{average}").removeprefix("val/")
            assert result[logged] == pytest.approx(score, abs=1e-12), (name, average)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that have no images
        balanced = balanced_accuracy_score(labels, predicted)
    logged = logged_as("val/acc_balanced").removeprefix("val/")
    assert result[logged] == pytest.approx(balanced, abs=1e-12)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    world=st.integers(1, 4),
    images=st.integers(1, 3 * 4 * BATCH + 1),
    classes=st.integers(2, 1000),
    seed=st.integers(0, 2**16),
)
def test_any_number_of_ranks_images_and_classes_counts_exactly(world, images, classes, seed):
    """Ranks whose states are added here; the sums over real processes are tested below."""
    torch.set_num_threads(1)  # the operations are small: more threads wait for each other
    ranks = [evaluate(rank, world, images, classes, seed) for rank in range(world)]
    total = ranks[0]
    for other in ranks[1:]:
        total.counts_K += other.counts_K
        total.loss_sums += other.loss_sums
    assert_exact(total.compute(), images, classes, seed)


# --- real processes -------------------------------------------------------------------------------


def evaluate_all(cases: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    rank, world = dist.get_rank(), dist.get_world_size()
    found = [evaluate(rank, world, *case).compute() for case in cases]
    return [{name: value.tolist() for name, value in result.items()} for result in found]


@pytest.mark.parametrize("world", [2, 4])
def test_every_rank_has_the_numbers_of_all_images(ranks, world):
    sizes = [*range(1, world + 2), *range(world * BATCH - 1, 3 * world * BATCH + 2, 3)]
    cases = [(images, classes, images) for images in sizes for classes in (2, 43)]
    for found in ranks(world).run(evaluate_all, cases):
        for case, result in zip(cases, found, strict=True):
            assert_exact(result, *case)


@pytest.mark.parametrize("world", [2, 4])
def test_counts_of_a_node_are_those_of_its_own_images(ranks, world):
    images, classes = 25, 7
    (result,) = ranks(world).run(evaluate_all, [(images, classes, 0)])[0]
    _, labels = logits_and_labels(images, classes, 0)
    for node in range(world):
        rows = np.concatenate([m.indices_m for m in EvalSampler(images, BATCH, node, world)])
        own = np.bincount(labels[rows[rows != PADDING]], minlength=classes)
        np.testing.assert_array_equal(result["support_NC"][node], own)


def bad_label(bad_rows: dict[int, int]) -> tuple[str, int]:
    """Rank r evaluates image 10 + r and image 20 + r; `bad_rows`: image -> label."""
    metrics = ClassificationMetrics(3, 1)
    images = torch.tensor([10, 20]) + dist.get_rank()
    labels = torch.tensor([bad_rows.get(int(image), 0) for image in images])
    metrics.update(torch.eye(3)[:2], labels, torch.tensor(0.0), torch.tensor(2.0), images)
    with pytest.raises(BadLabelError) as error:
        metrics.compute()
    return str(error.value), error.value.index


def test_a_bad_label_on_one_rank_is_the_same_error_on_all(ranks):
    found = ranks(2).run(bad_label, {21: 7, 11: -5})
    assert found[0] == found[1]
    assert found[0] == ("2 labels are outside 0..2 (or -1, padding)", 11)


def batchnorm_before_and_after() -> tuple[list[float], list[float]]:
    norm = nn.Sequential(nn.BatchNorm1d(3))
    norm(torch.full((4, 3), float(dist.get_rank())))
    before = norm[0].running_mean.tolist()
    average_over_ranks(statistics(norm))
    return before, norm[0].running_mean.tolist()


def test_ranks_take_the_mean_of_their_batchnorm_statistics(ranks):
    found = ranks(2).run(batchnorm_before_and_after)
    assert found[0][0] != found[1][0]
    mean = (np.array(found[0][0]) + np.array(found[1][0])) / 2
    for _, after in found:
        np.testing.assert_allclose(after, mean, atol=1e-7)
