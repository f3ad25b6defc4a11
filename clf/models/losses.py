"""Losses by name: `model.loss=cross_entropy`. Keyword-only parameters are settings of the model.

A loss gives two sums, (over the rows of their losses, over the rows of their weights). Their
quotient is the loss; as sums, batches and ranks add up exactly. Rows labelled `PADDING` add 0.

B rows, C classes.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from clf.batch import PADDING
from clf.config import register
from clf.config.about import About


@register(name="cross_entropy", group="loss")
def cross_entropy(
    logits_BC: Tensor,
    labels_B: Tensor,
    class_weights_C: Tensor,
    *,
    label_smoothing: Annotated[float, About("share spread over all classes", 0.0, 1.0)] = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weighted, smoothed cross-entropy; the quotient is torch's own with `reduction="mean"`."""
    loss_sum = F.cross_entropy(
        logits_BC,
        labels_B,
        weight=class_weights_C,
        ignore_index=PADDING,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    weights_B = class_weights_C[labels_B.clamp(min=0)]
    return loss_sum, torch.where(labels_B == PADDING, 0.0, weights_B).sum()
