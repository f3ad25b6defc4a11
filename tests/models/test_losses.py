"""Losses by name against torch, timm, torchvision and NumPy, with class weights and padding."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

from clf.batch import PADDING
from clf.config import register, registry
from clf.models.base import BaseClassificationModel
from clf.models.losses import Mixed

WEIGHTS = [1.0, 2.0, 0.5, 3.0]
LOSSES = ("cross_entropy", "binary_cross_entropy", "focal", "logit_adjustment")
RNG = torch.Generator().manual_seed(0)
LOGITS = torch.randn(7, 4, generator=RNG) * 3
LABELS = torch.tensor([0, 1, 2, 3, 1, PADDING, PADDING])
OTHERS = torch.tensor([1, 0, 3, 2, 1, PADDING, PADDING])
SHARES = torch.tensor([0.3, 0.7, 0.9, 0.1, 0.5, 0.5, 0.5])


class Plain(BaseClassificationModel):
    def build_network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, self.num_classes))


def model(loss: str, **settings) -> Plain:
    return Plain(num_classes=4, loss=loss, **settings)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_that_is_padding_adds_nothing_and_gets_no_gradient(loss):
    built = model(loss, class_weights=WEIGHTS)
    logits = LOGITS.clone().requires_grad_()
    loss_sum, weight_sum = built.loss_sums(logits, LABELS)
    (loss_sum / weight_sum).backward()
    assert weight_sum.item() == 1.0 + 2.0 + 0.5 + 3.0 + 2.0
    torch.testing.assert_close(built.loss_sums(LOGITS[:5], LABELS[:5])[0], loss_sum.detach())
    assert (logits.grad[5:] == 0).all()
    assert (logits.grad[:5] != 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_classes_that_weigh_nothing_changes_nothing(loss):
    smoothing = {"label_smoothing": 0.1} if "cross_entropy" in loss else {}
    built = model(loss, class_weights=[0.0, *WEIGHTS[1:]], **smoothing)
    logits = LOGITS.clone().requires_grad_()
    built.loss_fn(logits, torch.zeros_like(LABELS)).backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"bce_sum": True}])
def test_binary_cross_entropy_is_timms(settings):
    reference = BinaryCrossEntropy(
        smoothing=settings.get("label_smoothing", 0.0), sum_classes=settings.get("bce_sum", False)
    )
    found = model("binary_cross_entropy", **settings).loss_fn(LOGITS, LABELS)
    torch.testing.assert_close(found, reference(LOGITS[:5], LABELS[:5]))


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
def test_binary_cross_entropy_of_mixed_images_is_timms(threshold):
    targets = one_hot(LABELS[:5]) * SHARES[:5, None] + one_hot(OTHERS[:5]) * (1 - SHARES[:5, None])
    expected = BinaryCrossEntropy(0.0, target_threshold=threshold)(LOGITS[:5], targets)
    built = model("binary_cross_entropy", bce_threshold=threshold)
    loss_sum, weight_sum = built.loss_sums(LOGITS, LABELS, Mixed(OTHERS, SHARES))
    torch.testing.assert_close(loss_sum / weight_sum, expected)


def test_binary_cross_entropy_smooths_the_targets_of_both_classes():
    built = model("binary_cross_entropy", bce_threshold=0.0, label_smoothing=0.2)
    loss_sum, _ = built.loss_sums(LOGITS[:1], LABELS[:1], Mixed(OTHERS[:1], SHARES[:1]))
    targets = torch.tensor([[0.85, 0.85, 0.05, 0.05]])
    torch.testing.assert_close(loss_sum, F.binary_cross_entropy_with_logits(LOGITS[:1], targets))


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, 4).float()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_is_its_formula(gamma):
    log_p = log_softmax(LOGITS.double().numpy(), axis=1)[:5]
    y, w = LABELS.numpy()[:5], np.array(WEIGHTS)
    log_py = log_p[np.arange(5), y]
    expected = (w[y] * (1 - np.exp(log_py)) ** gamma * -log_py).sum() / w[y].sum()
    built = model("focal", focal_gamma=gamma, class_weights=WEIGHTS)
    assert built.loss_fn(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_with_gamma_0_is_cross_entropy():
    focal, plain = model("focal", focal_gamma=0.0), model("cross_entropy")
    torch.testing.assert_close(focal.loss_fn(LOGITS, LABELS), plain.loss_fn(LOGITS, LABELS))


def test_focal_loss_has_a_gradient_where_the_network_is_certain():
    logits = torch.tensor([[200.0, 0.0, 0.0, 0.0]], requires_grad=True)
    model("focal", focal_gamma=0.5).loss_fn(logits, torch.tensor([0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_logit_adjustment_is_cross_entropy_of_logits_shifted_by_the_classes_shares():
    shares = np.array([0.7, 0.2, 0.09, 0.01])
    built = model("logit_adjustment", logit_adjustment_tau=1.5, class_weights=WEIGHTS)
    built.set_class_shares(shares.tolist())
    log_p = log_softmax(LOGITS.double().numpy() + 1.5 * np.log(shares), axis=1)[:5]
    y, w = LABELS.numpy()[:5], np.array(WEIGHTS)
    expected = -(w[y] * log_p[np.arange(5), y]).sum() / w[y].sum()
    assert built.loss_fn(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_the_shares_of_the_classes_travel_with_a_checkpoint_whose_loss_needs_them():
    adjusted = model("logit_adjustment")
    adjusted.set_class_shares([0.7, 0.2, 0.09, 0.01])
    assert "class_shares" not in model("focal").state_dict()
    other = model("logit_adjustment")
    other.load_state_dict(adjusted.state_dict())
    assert other.class_shares.tolist() == pytest.approx([0.7, 0.2, 0.09, 0.01])


@pytest.mark.parametrize("names", [("focal", "logit_adjustment"), ("logit_adjustment", "focal")])
def test_a_run_goes_on_with_another_loss(names):
    first, then = map(model, names)
    then.load_state_dict(first.state_dict())
    assert torch.equal(then.network[1].weight, first.network[1].weight)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mixed_row_has_its_share_of_each_labels_loss_and_weight(loss):
    built = model(loss, class_weights=WEIGHTS)
    found = built.loss_sums(LOGITS, LABELS, Mixed(OTHERS, SHARES))
    expected = torch.zeros(2)
    for row in range(7):
        for label, share in ((LABELS[row], SHARES[row]), (OTHERS[row], 1 - SHARES[row])):
            sums = built.loss_sums(LOGITS[row : row + 1], label[None])
            expected += share * torch.stack(sums)
    torch.testing.assert_close(torch.stack(found), expected)


def test_cross_entropy_of_mixed_images_is_torchs_with_soft_targets():
    targets = one_hot(LABELS[:5]) * SHARES[:5, None] + one_hot(OTHERS[:5]) * (1 - SHARES[:5, None])
    built = model("cross_entropy", label_smoothing=0.1)
    loss_sum, weight_sum = built.loss_sums(LOGITS, LABELS, Mixed(OTHERS, SHARES))
    expected = F.cross_entropy(LOGITS[:5], targets, label_smoothing=0.1)
    torch.testing.assert_close(loss_sum / weight_sum, expected)


def summed(logits_BC: Tensor, labels_B: Tensor, class_weights_C: Tensor):
    rows = F.cross_entropy(logits_BC, labels_B.clamp(min=0), reduction="none")
    return rows.sum(), class_weights_C[labels_B].sum()


def test_a_loss_that_gives_sums_instead_of_rows_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "_entries", {})  # another test lists all names
    register(name="summed", group="loss")(summed)
    with pytest.raises(ValueError, match=r"model.loss=summed: gave .*\(\).*expected .* of 7 rows"):
        model("summed").loss_fn(LOGITS, LABELS)


def test_a_loss_that_asks_for_what_there_is_not_is_refused():
    def curious(logits_BC: Tensor, labels_B: Tensor, class_weights_C: Tensor, epoch: int): ...

    with pytest.raises(ValueError, match="asks for epoch; .* can have class_shares_C and mixed"):
        register(name="curious", group="loss")(curious)
