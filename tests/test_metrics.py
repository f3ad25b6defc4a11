"""Counts and losses of an epoch against NumPy and torchmetrics' own accuracy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torchmetrics.classification import MulticlassAccuracy

from clf.batch import PADDING
from clf.metrics.counts import FEW, ClassificationMetrics


def batches(total: int, classes: int, seed: int, size: int = 7) -> list[tuple]:
    """Random logits and labels in batches, the last one filled up with padding rows."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(total, classes, generator=generator)
    labels = torch.randint(classes, (total,), generator=generator)
    padded = -total % size
    logits = torch.cat([logits, torch.full((padded, classes), 1e9)])
    labels = torch.cat([labels, torch.full((padded,), PADDING)])
    return list(zip(logits.split(size), labels.split(size), strict=True))


def run(metrics: ClassificationMetrics, data: list[tuple]) -> dict:
    for logits, labels in data:
        loss_sum = F.cross_entropy(logits, labels, ignore_index=PADDING, reduction="sum")
        metrics.update(logits, labels, loss_sum, (labels != PADDING).sum())
    return metrics.compute()


@pytest.mark.parametrize(("total", "classes", "top_k"), [(1, 2, 2), (50, 10, 5), (333, 43, 3)])
def test_numbers_equal_numpy_and_padding_counts_for_nothing(total, classes, top_k):
    data = batches(total, classes, seed=total)
    result = run(ClassificationMetrics(classes, top_k), data)

    logits = np.concatenate([x.numpy() for x, _ in data])[:total].astype(np.float64)
    labels = np.concatenate([y.numpy() for _, y in data])[:total]
    right = logits.argmax(1) == labels
    support = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[right], minlength=classes)
    in_top_k = (np.argsort(-logits, 1)[:, :top_k] == labels[:, None]).any(1)
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    loss = (log_sum - logits[np.arange(total), labels]).mean()

    np.testing.assert_array_equal(result["support_NC"][0], support)
    np.testing.assert_array_equal(result["correct_NC"][0], correct)
    predicted = np.bincount(logits.argmax(1), minlength=classes)
    np.testing.assert_array_equal(result["predicted_C"], predicted)
    assert result["acc_top1"] == right.mean()
    if top_k < classes:
        assert result[f"acc_top{top_k}"] == in_top_k.mean()
    present = support > 0
    assert result["acc_macro"] == pytest.approx(
        (correct[present] / support[present]).mean(), abs=1e-12
    )
    f1 = f1_score(labels, logits.argmax(1), average="macro", zero_division=0)
    assert result["f1_macro"] == pytest.approx(f1, abs=1e-12)
    assert result["loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 3, 5])
def test_top_k_is_torchmetrics_multiclass_accuracy(top_k):
    data = batches(200, 8, seed=top_k)
    result = run(ClassificationMetrics(8, top_k), data)
    reference = MulticlassAccuracy(8, top_k=top_k, average="micro", ignore_index=PADDING)
    for logits, labels in data:
        reference.update(logits, labels)
    assert result[f"acc_top{top_k}"].item() == pytest.approx(reference.compute().item(), abs=1e-7)


def test_a_class_without_samples_does_not_pull_the_macro_accuracy_down():
    metrics = ClassificationMetrics(3, top_k=1)
    logits = torch.eye(3)[[0, 1]]
    metrics.update(logits, torch.tensor([0, 1]), torch.tensor(0.0), torch.tensor(2.0))
    assert metrics.compute()["acc_macro"] == 1.0


def test_an_epoch_without_images_is_not_a_number_rather_than_zero():
    assert torch.isnan(ClassificationMetrics(3, top_k=1).compute()["acc_top1"])


def test_diverged_logits_are_an_error_and_not_class_zero():
    metrics = ClassificationMetrics(3, top_k=1)
    logits = torch.tensor([[float("nan")] * 3, [1.0, 0.0, 0.0]])
    metrics.update(logits, torch.tensor([0, 0]), torch.tensor(0.0), torch.tensor(2.0))
    with pytest.raises(ValueError, match="not finite for 1 images: training has diverged"):
        metrics.compute()


def test_padding_rows_may_hold_anything():
    metrics = ClassificationMetrics(2, top_k=1)
    logits = torch.tensor([[float("nan")] * 2, [1.0, 0.0]])
    metrics.update(logits, torch.tensor([PADDING, 0]), torch.tensor(0.0), torch.tensor(1.0))
    assert metrics.compute()["acc_top1"] == 1.0


def test_an_invalid_label_is_an_error():
    metrics = ClassificationMetrics(3, top_k=1)
    metrics.update(torch.zeros(2, 3), torch.tensor([3, 0]), torch.tensor(0.0), torch.tensor(2.0))
    with pytest.raises(ValueError, match=r"1 labels are outside 0\.\.2"):
        metrics.compute()


def test_top_k_over_the_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="top_k must be from 1 to num_classes=3, got 4"):
        ClassificationMetrics(3, top_k=4)


def test_counts_do_not_take_part_in_half_precision():
    metrics = ClassificationMetrics(2, top_k=1).bfloat16()
    for _ in range(300):  # bfloat16 cannot count past 256
        metrics.update(
            torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16),
            torch.tensor([0]),
            torch.tensor(0.1),
            torch.tensor(1.0),
        )
    result = metrics.compute()
    assert result["support_NC"].tolist() == [[300, 0]]
    assert result["loss"] == pytest.approx(0.1, abs=1e-6)


def test_a_confidence_of_1_is_in_the_last_bin_as_in_guo_et_al():
    """torchmetrics gives it a bin of its own: the two differ where a network is that sure."""
    probabilities = torch.tensor([1.0, 1.0, 0.95, 0.8, 0.62, 0.55, 0.39])
    logits = torch.stack([probabilities, 1 - probabilities]).clamp(min=1e-30).log().T
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1])  # 0.39 predicts class 1
    right = np.array([1, 0, 1, 1, 0, 1, 1])
    confidence = np.array([1.0, 1.0, 0.95, 0.8, 0.62, 0.55, 0.61])
    bins = [(confidence > i / 15) & (confidence <= (i + 1) / 15) for i in range(15)]
    gaps = [abs(right[b].mean() - confidence[b].mean()) * b.mean() for b in bins if b.any()]
    result = run(ClassificationMetrics(2, top_k=1), [(logits, labels)])
    assert result["ece"] == pytest.approx(sum(gaps), abs=1e-6)


def test_the_order_of_the_images_does_not_change_a_bit_of_the_calibration_error():
    data = batches(500, 10, seed=1)
    forwards = run(ClassificationMetrics(10, 5), data)
    assert run(ClassificationMetrics(10, 5), data[::-1])["ece"] == forwards["ece"] > 0


def test_an_epoch_that_an_older_version_began_has_no_calibration_error():
    first, rest = batches(40, 10, seed=2), batches(30, 10, seed=3)
    old = ClassificationMetrics(10, 5)
    run(old, first)
    state = old.state_over_ranks()
    counts_K = state.pop("counts_K")
    # It counted by node, and an even older one had no bins.
    counts_NK = torch.stack([torch.zeros_like(counts_K), counts_K])
    for columns, exists in ((3 * 10 + 3, False), (len(counts_K), True)):
        resumed = ClassificationMetrics(10, 5, num_nodes=2, node_rank=1)
        resumed.resume_from(state | {"counts_NK": counts_NK[:, :columns]}, rank=0)
        result, whole = run(resumed, rest), run(ClassificationMetrics(10, 5), first + rest)
        assert torch.isnan(result["ece"]) != exists
        for name in ("acc_top1", "f1_macro", "precision_weighted"):
            assert result[name] == whole[name]
    assert result["ece"] == whole["ece"]


@pytest.mark.parametrize("classes", [10, FEW + 22])  # a CPU has another way for many classes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_of_equal_logits_the_first_class_is_the_larger_in_top_1_and_in_top_k(classes, dtype):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(-2, 3, (300, classes), generator=generator).to(dtype)
    logits[:50] = 0  # a head that starts at 0: no class is better than another
    labels = torch.randint(classes, (300,), generator=generator)
    result = run(ClassificationMetrics(classes, top_k=5), [(logits.to(dtype), labels)])
    order = np.argsort(-logits.float().numpy(), axis=1, kind="stable")
    hits = order[:, :5] == labels.numpy()[:, None]
    assert result["acc_top5"] == hits.any(1).mean()
    assert result["acc_top1"] == hits[:, 0].mean()
    predicted = np.bincount(order[:, 0], minlength=classes)
    np.testing.assert_array_equal(result["predicted_C"], predicted)


def test_a_network_that_knows_nothing_has_no_better_top_k_than_chance():
    labels = torch.arange(100)
    result = run(ClassificationMetrics(100, top_k=5), [(torch.zeros(100, 100), labels)])
    assert (result["acc_top1"], result["acc_top5"]) == (0.01, 0.05)


@pytest.mark.parametrize("classes", [7, FEW + 22])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_logit_that_is_not_finite_is_found_wherever_it_is(classes, value):
    for place in (0, 3, classes - 1):
        logits = torch.zeros(4, classes)
        logits[1, place] = logits[3, place] = value
        metrics = ClassificationMetrics(classes, top_k=5)
        metrics.update(logits, torch.tensor([0, 3, 1, 5]), torch.tensor(0.0), torch.tensor(4.0))
        with pytest.raises(ValueError, match="not finite for 2 images"):
            metrics.compute()


def test_a_class_may_be_ruled_out_unless_it_is_the_right_one():
    ruled_out = torch.tensor([[0.0, -float("inf"), 1.0]])
    metrics = ClassificationMetrics(3, top_k=2)
    metrics.update(ruled_out, torch.tensor([2]), torch.tensor(0.3), torch.tensor(1.0))
    result = metrics.compute()
    assert (result["acc_top1"], result["acc_top2"]) == (1.0, 1.0)
    metrics.update(ruled_out, torch.tensor([1]), torch.tensor(0.3), torch.tensor(1.0))
    with pytest.raises(ValueError, match="not finite for 1 images"):
        metrics.compute()


def test_a_rank_holds_the_counts_of_its_own_node_alone():
    one, many = (ClassificationMetrics(1000, 5, num_nodes=nodes) for nodes in (1, 128))
    assert one.counts_K.shape == many.counts_K.shape


def test_an_update_never_waits_for_the_device():
    """A tensor on the meta device has no value that the host could wait for."""
    metrics = ClassificationMetrics(10, 5).to("meta")
    logits, labels = torch.randn(7, 10, device="meta"), torch.zeros(7, device="meta").long()
    total = torch.zeros((), device="meta")
    metrics.update(logits, labels, total, total, labels)
    assert metrics.counts_K.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        metrics.compute()
