"""Losses by name: `model.loss=cross_entropy`. Keyword-only parameters are settings of the model.

A loss gives two vectors: of each row its loss, multiplied by the row's weight, and that weight. The
loss of a batch is the quotient of their sums; as sums, batches and ranks add up exactly. Rows
labelled `PADDING` have 0 in both.

A loss gets the logits, the labels and the classes' weights, and what else it names:

    class_shares_C   the share of each class among the training images
    mixed            `Mixed` where the images are mixed, else None; without this parameter the loss
                     is called with each of the two labels, and the results are mixed

B rows, C classes.
"""

from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clf.batch import PADDING
from clf.config import register
from clf.config.about import About
from clf.config.registry import find, load, own_settings

Rows = tuple[Tensor, Tensor]  # weighted loss and weight of each row, [B] both


class Mixed(NamedTuple):
    """What the rows of a batch of mixed images hold besides their own images."""

    labels_B: Tensor  # of the images that were mixed in
    shares_B: Tensor  # of each row's own image, 0..1


@register(name="cross_entropy", group="loss")
def cross_entropy(
    logits_BC: Tensor,
    labels_B: Tensor,
    class_weights_C: Tensor,
    *,
    label_smoothing: Annotated[float, About("share spread over all classes", 0.0, 1.0)] = 0.0,
) -> Rows:
    """Weighted, smoothed cross-entropy; the quotient is torch's own with `reduction="mean"`."""
    losses_B = F.cross_entropy(
        logits_BC,
        labels_B,
        weight=class_weights_C,
        ignore_index=PADDING,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses_B, row_weights(labels_B, class_weights_C)


@register(name="binary_cross_entropy", group="loss")
def binary_cross_entropy(
    logits_BC: Tensor,
    labels_B: Tensor,
    class_weights_C: Tensor,
    mixed: Mixed | None,
    *,
    label_smoothing: Annotated[float, About("share spread over all classes", 0.0, 1.0)] = 0.0,
    bce_threshold: Annotated[
        float | None,
        About(
            "classes of a mixed image whose share is above this have the target 1, others 0; "
            "null: the shares are the targets",
            0.0,
            high=1.0,
        ),
    ] = None,
    bce_sum: Annotated[bool, About("sum over the classes; false: their mean")] = False,
) -> Rows:
    """A yes or no for each class, as in "ResNet strikes back" (Wightman et al. 2021, arXiv
    2110.00476), whose mixed images have the target 1 for both classes: `bce_threshold=0`. Their
    training code has 0.2.

    The smoothing comes after the threshold; in timm's loss the threshold undoes it.
    """
    classes = logits_BC.shape[1]

    def losses(targets_BC: Tensor) -> Tensor:
        smooth_BC = targets_BC * (1 - label_smoothing) + label_smoothing / classes
        losses_BC = F.binary_cross_entropy_with_logits(logits_BC, smooth_BC, reduction="none")
        return losses_BC.sum(dim=1) if bce_sum else losses_BC.mean(dim=1)

    own_BC = F.one_hot(labels_B.clamp(min=0), classes).to(logits_BC)
    own_B = row_weights(labels_B, class_weights_C)
    if mixed is None:
        return own_B * losses(own_BC), own_B
    others_BC = F.one_hot(mixed.labels_B.clamp(min=0), classes).to(logits_BC)
    others_B = row_weights(mixed.labels_B, class_weights_C)
    shares_B = mixed.shares_B.to(logits_BC)
    if bce_threshold is None:
        both = ((own_B * losses(own_BC), own_B), (others_B * losses(others_BC), others_B))
        return mix_rows(*both, shares_B)
    weights_B = torch.lerp(others_B, own_B, shares_B)
    targets_BC = torch.lerp(others_BC, own_BC, shares_B[:, None]) > bce_threshold
    return weights_B * losses(targets_BC.to(logits_BC)), weights_B


@register(name="focal", group="loss")
def focal(
    logits_BC: Tensor,
    labels_B: Tensor,
    class_weights_C: Tensor,
    *,
    focal_gamma: Annotated[
        float, About("how little images count that are classified well; 0: cross-entropy", 0.0)
    ] = 2.0,
) -> Rows:
    """Cross-entropy times (1 - p) ** gamma, p the probability of the right class (Lin et al. 2017,
    arXiv 1708.02002), of a softmax."""
    losses_B = F.cross_entropy(logits_BC, labels_B, ignore_index=PADDING, reduction="none")
    # Away from 0, where the power has no gradient for a gamma below 1.
    wrong_B = -torch.expm1(-losses_B)
    wrong_B = wrong_B.clamp(min=torch.finfo(wrong_B.dtype).eps)
    weights_B = row_weights(labels_B, class_weights_C)
    return weights_B * wrong_B**focal_gamma * losses_B, weights_B


@register(name="logit_adjustment", group="loss")
def logit_adjustment(
    logits_BC: Tensor,
    labels_B: Tensor,
    class_weights_C: Tensor,
    class_shares_C: Tensor,
    *,
    logit_adjustment_tau: Annotated[
        float, About("strength of the correction; 0: cross-entropy", 0.0)
    ] = 1.0,
) -> Rows:
    """Cross-entropy of the logits plus tau * log(class share), so that the plain logits, which
    predict, are right for classes that are equally frequent (Menon et al. 2021, arXiv 2007.07314).
    """
    adjusted_BC = logits_BC + logit_adjustment_tau * class_shares_C.log()
    return cross_entropy(adjusted_BC, labels_B, class_weights_C)


def quotient(loss_sum: Tensor, weight_sum: Tensor) -> Tensor:
    """The loss of a batch from the sums over its rows; 0, and no gradient, where no row has a
    weight, as in a micro-batch of classes that weigh nothing."""
    return loss_sum * (weight_sum > 0) / weight_sum.clamp(min=1e-12)


def spread(loss: Tensor) -> Tensor:
    """The loss itself; one that is not finite gives gradients that are not finite either, so that
    all ranks hear of it in the sum of their gradients. Any other gradient keeps its bits."""
    if loss.requires_grad:
        factor = torch.where(loss.detach().isfinite(), 1.0, torch.nan)
        loss.register_hook(lambda gradient: gradient * factor.to(gradient.dtype))
    return loss


def row_weights(labels_B: Tensor, class_weights_C: Tensor) -> Tensor:
    """The weight of each row's class; 0 for a row labelled `PADDING`."""
    return torch.where(labels_B == PADDING, 0.0, class_weights_C[labels_B.clamp(min=0)])


def asks_for(name: str) -> tuple[str, ...]:
    """What the loss takes besides logits, labels and weights."""
    entry = find("loss", name)
    return entry.asks if entry else ()


def loss_rows(
    name: str,
    settings: Any,
    logits_BC: Tensor,
    labels_B: Tensor,
    class_weights_C: Tensor,
    class_shares_C: Tensor | None = None,
    mixed: Mixed | None = None,
) -> Rows:
    """The rows of the loss of that name.

    Args:
        settings: a mapping that has the loss's own among others
        class_shares_C: needed by a loss that asks for it

    Raises:
        ValueError: the loss gave something else than two vectors of B numbers
    """
    asked = asks_for(name)
    offered = {"class_shares_C": class_shares_C, "mixed": mixed}
    words = own_settings("loss", name, settings) | {key: offered[key] for key in asked}

    def of(labels_B: Tensor) -> Rows:
        rows = load("loss", name)(logits_BC, labels_B, class_weights_C, **words)
        shapes = [tuple(getattr(part, "shape", ())) for part in rows]
        if shapes != [tuple(labels_B.shape)] * 2:
            raise ValueError(
                f"model.loss={name}: gave tensors of the shapes {shapes}; expected the losses and "
                f"the weights of {len(labels_B)} rows, each a vector"
            )
        return rows

    own = of(labels_B)
    if mixed is None or "mixed" in asked:
        return own
    return mix_rows(own, of(mixed.labels_B), mixed.shares_B)


def mix_rows(own: Rows, others: Rows, shares_B: Tensor) -> Rows:
    """Each row's share of its own loss and weight, and the rest of the other's."""
    losses_B, weights_B = (
        torch.lerp(other_B, own_B, shares_B.to(own_B))
        for own_B, other_B in zip(own, others, strict=True)
    )
    return losses_B, weights_B
