"""The counts behind every metric: exact on any number of ranks, O(B + C) an update, one sync an
epoch. What is computed from them stands in `measures.py`.

`ClassificationMetrics` only adds up integers by class (and the loss's two sums) on the device.
Nothing is divided, and no rank talks to another, before the end of the epoch. So a result depends
neither on how the images were spread over ranks nor on the padding that made the ranks equal.

B rows of a batch, C classes, M bins of confidence, N nodes.
"""

from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torchmetrics import Metric

from clf.batch import PADDING
from clf.metrics.measures import BINS, Counts, reported

ONE = 2**30  # a confidence of 1, in the integers that confidences are added up in
NO_INDEX = torch.iinfo(torch.int64).max  # larger than the index of any image


class BadLabelError(ValueError):
    """Some labels are not a class; `index` is the position of the first such image in the split."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.message, self.index = message, index

    def naming(self, loader: Any) -> ValueError:
        """The same error with the image's file, if the loader knows it (`path(index)`)."""
        if self.index == NO_INDEX or not hasattr(loader, "path"):
            return self
        return ValueError(f"{self.message}; the first is that of {loader.path(self.index)}")


def sum_over_ranks(state: Tensor, group: Any = None) -> list[Tensor]:
    """One all-reduce instead of torchmetrics' barrier and two all-gathers. It returns [sum], which
    is what torchmetrics expects of a `dist_sync_fn`."""
    total = state.clone()
    torch.distributed.all_reduce(total, group=group)
    return [total]


class ClassificationMetrics(Metric):
    """The counts of an epoch by class and by node, and every number of `measures.py` from them.

    A row whose label is `PADDING` counts for nothing.

    Args:
        num_classes: C
        top_k: the second accuracy counts a row as right if its label is among the k largest logits
        num_nodes, node_rank: where this rank runs, so that the counts can be shown by node
    """

    full_state_update = False
    higher_is_better = True
    counts_NK: Tensor
    loss_sums: Tensor
    first_bad: Tensor

    def __init__(
        self, num_classes: int, top_k: int, num_nodes: int = 1, node_rank: int = 0
    ) -> None:
        super().__init__(dist_sync_fn=sum_over_ranks)
        if not 1 <= top_k <= num_classes:
            raise ValueError(f"top_k must be from 1 to num_classes={num_classes}, got {top_k}")
        self.num_classes, self.top_k, self.node_rank = num_classes, top_k, node_rank
        # A rank fills its node's row, so the sum over ranks is the table by node, and its column
        # sums the totals. K = support of each class, correct of each, predicted of each; the three
        # single counts; images of each bin, correct of each, sum of the confidences of each; images
        # that could not be read.
        self._parts = [num_classes] * 3 + [3] + [BINS] * 3 + [1]
        counts_NK = torch.zeros(num_nodes, sum(self._parts), dtype=torch.int64)
        self.add_state("counts_NK", counts_NK, dist_reduce_fx="sum")
        self.add_state("loss_sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        # A buffer and not a state, so that the ranks send it only if a label was bad.
        self.register_buffer("first_bad", torch.tensor(NO_INDEX), persistent=False)

    def update(
        self,
        logits_BC: Tensor,
        labels_B: Tensor,
        loss_sum: Tensor,
        weight_sum: Tensor,
        indices_B: Tensor | None = None,
    ) -> None:
        """Add a batch. Needs no host sync.

        Args:
            logits_BC: float [B, C]
            labels_B: int64 [B], a class or `PADDING`
            loss_sum: sum of the rows' weighted losses; weight_sum: sum of their weights
            indices_B: int64 [B], the images' positions in the split, to name an image whose label
                is bad, and to tell an image that could not be read from padding
        """
        C, counts_K = self.num_classes, self.counts_NK[self.node_rank]
        is_nan_B = ~torch.isfinite(logits_BC).all(dim=1) & (labels_B != PADDING)
        is_bad_B = (labels_B >= C) | (labels_B < PADDING)
        valid_B = (labels_B != PADDING) & ~is_bad_B
        label_B = torch.where(valid_B, labels_B, 0)
        predicted_B = logits_BC.argmax(dim=1)
        in_top_k_B = (logits_BC.topk(self.top_k, dim=1).indices == label_B[:, None]).any(dim=1)
        correct_B = valid_B & (predicted_B == label_B)
        confidence_B = _confidence(logits_BC)
        # Bins include their upper end, as in Guo et al.
        bin_B = 3 * C + 3 + ((confidence_B * BINS).ceil().long() - 1).clamp(0, BINS - 1)
        fixed_B = (confidence_B * ONE).round().long()
        # Each row adds at six places; one that is not valid adds 0 there.
        places = [label_B, C + label_B, 2 * C + predicted_B]
        places += [bin_B, BINS + bin_B, 2 * BINS + bin_B]
        added = [valid_B, correct_B, valid_B, valid_B, correct_B, valid_B * fixed_B]
        counts_K.index_add_(0, torch.cat(places), torch.cat([one.long() for one in added]))
        counts_K[3 * C : 3 * C + 3] += torch.stack(
            [(valid_B & in_top_k_B).sum(), is_nan_B.sum(), is_bad_B.sum()]
        )
        self.loss_sums += torch.stack([loss_sum, weight_sum]).to(torch.float64)
        if indices_B is not None:
            counts_K[-1] += ((labels_B == PADDING) & (indices_B != PADDING)).sum()
            first = torch.where(is_bad_B, indices_B, NO_INDEX).min()
            self.first_bad.copy_(torch.minimum(self.first_bad, first))

    def reset(self) -> None:
        super().reset()
        self.first_bad.fill_(NO_INDEX)

    def compute(self) -> dict[str, Tensor]:
        """The epoch's numbers; call it on all ranks together.

        Returns:
            float64 scalars by the names of `measures.py` (acc_top1, loss, ...), NaN where a number
            does not exist; and the counts support_NC, correct_NC (by node), predicted_C and
            skipped, the images that could not be read, int64

        Raises:
            ValueError: a row had logits that are not finite
            BadLabelError: a label is not a class
        """
        support_NC, correct_NC, predicted_NC, single_N3, *bins, skipped_N1 = self.counts_NK.split(
            self._parts, dim=1
        )
        bin_images_M, bin_correct_M, fixed_M = (bin_NM.sum(dim=0) for bin_NM in bins)
        top_k_hits, nan_rows, bad_labels = single_N3.sum(dim=0)
        self._raise_if(nan_rows, bad_labels)
        counts = Counts(
            support_C=support_NC.sum(dim=0),
            correct_C=correct_NC.sum(dim=0),
            predicted_C=predicted_NC.sum(dim=0),
            top_k_hits=top_k_hits,
            loss_sum=self.loss_sums[0],
            weight_sum=self.loss_sums[1],
            bin_images_M=bin_images_M,
            bin_correct_M=bin_correct_M,
            bin_confidence_M=fixed_M.double() / ONE,
        )
        scalars = {
            one.name: torch.as_tensor(one.compute(counts), dtype=torch.float64)
            for one in reported(self.top_k, self.num_classes)
        }
        tables = {"support_NC": support_NC, "correct_NC": correct_NC}
        single = {"predicted_C": counts.predicted_C, "skipped": skipped_N1.sum()}
        return scalars | tables | single

    def _raise_if(self, nan_rows: Tensor, bad_labels: Tensor) -> None:
        if bad_labels:
            raise BadLabelError(
                f"{int(bad_labels)} labels are outside 0..{self.num_classes - 1} "
                f"(or {PADDING}, padding)",
                self._first_bad_of_all_ranks(),
            )
        if nan_rows:
            raise ValueError(
                f"the model gave logits that are not finite for {int(nan_rows)} images: training "
                "has diverged. Lower model.learning_rate, or set strategy.gradient_clip=1.0"
            )

    # --- an epoch that is interrupted and resumed ---

    def state_over_ranks(self) -> dict[str, Tensor]:
        """What all ranks have counted so far, on the CPU; call it on all ranks together."""
        state = {"counts_NK": self.counts_NK, "loss_sums": self.loss_sums}
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            state = {name: sum_over_ranks(value)[0] for name, value in state.items()}
        return {name: value.cpu() for name, value in state.items()}

    def resume_from(self, state: dict[str, Tensor], rank: int) -> None:
        """Go on with `state_over_ranks` on any number of ranks: rank 0 takes all of it. The state
        of an earlier version lacks the last columns: this epoch has no calibration error if those
        of the bins are among them."""
        self.reset()
        self._update_count = 1  # torchmetrics would warn if the epoch has no batch left
        if rank != 0:
            return
        counts_NK = state["counts_NK"].to(self.counts_NK)
        missing = self.counts_NK.shape[1] - counts_NK.shape[1]
        counts_NK = torch.nn.functional.pad(counts_NK, (0, missing))
        if counts_NK.shape != self.counts_NK.shape:  # the run had another number of nodes
            counts_NK = counts_NK.sum(dim=0)
        self.counts_NK[... if counts_NK.ndim == 2 else self.node_rank] += counts_NK
        self.loss_sums += state["loss_sums"].to(self.loss_sums)

    def _first_bad_of_all_ranks(self) -> int:
        first = self.first_bad.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        return int(first)


def _confidence(logits_BC: Tensor) -> Tensor:
    """[B], the softmax's probability of the predicted class; 0 where logits are not finite."""
    wide_BC = logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))
    return wide_BC.softmax(dim=1).amax(dim=1).nan_to_num(0.0)
