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
FEW = 128  # classes, of which a CPU finds the largest logit as fast one by one
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


def sum_over_ranks(state: Tensor) -> Tensor:
    """One all-reduce instead of torchmetrics' barrier and two all-gathers; a tensor of its own."""
    total = state.clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total


class ClassificationMetrics(Metric):
    """The counts of an epoch by class and by node, and every number of `measures.py` from them.

    A row whose label is `PADDING` counts for nothing.

    Args:
        num_classes: C
        top_k: the second accuracy counts a row as right if its label is among the k largest logits;
            of equal logits, that of the lower class is the larger one, as in `argmax`
        num_nodes, node_rank: where this rank runs, so that the counts can be shown by node
    """

    full_state_update = False
    higher_is_better = True
    counts_K: Tensor
    loss_sums: Tensor
    first_bad: Tensor
    starts_10: Tensor
    edges_M: Tensor

    def __init__(
        self, num_classes: int, top_k: int, num_nodes: int = 1, node_rank: int = 0
    ) -> None:
        super().__init__(sync_on_compute=False)  # `compute` does it, in fewer collectives
        if not 1 <= top_k <= num_classes:
            raise ValueError(f"top_k must be from 1 to num_classes={num_classes}, got {top_k}")
        self.num_classes, self.top_k = num_classes, top_k
        self.num_nodes, self.node_rank = num_nodes, node_rank
        # K = support of each class, correct of each, predicted of each; the three single counts;
        # images of each bin, correct of each, sum of the confidences of each; images that could not
        # be read.
        C = num_classes
        self._parts = [C, C, C, 3, BINS, BINS, BINS, 1]
        self.add_state("counts_K", torch.zeros(sum(self._parts), dtype=torch.int64))
        self.add_state("loss_sums", torch.zeros(2, dtype=torch.float64))
        # Buffers and not states: the ranks send the first only if a label was bad, and the others
        # never change. They are integers, which no cast of the model to half precision touches.
        self._hold("first_bad", torch.tensor(NO_INDEX))
        bins = 3 * C + 3
        starts = [0, C, 2 * C, bins, bins + BINS, bins + 2 * BINS]  # of what a row of a batch adds
        starts += [3 * C, 3 * C + 1, 3 * C + 2, bins + 3 * BINS]
        self._hold("starts_10", torch.tensor(starts))
        # The upper ends of all bins but the last; an end is in its bin, as in Guo et al.
        self._hold("edges_M", torch.arange(1, BINS) * ONE // BINS)

    def _hold(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

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
        wide_BC = logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))
        label_B = labels_B.clamp(0, self.num_classes - 1)
        valid_B, used_B = label_B == labels_B, labels_B != PADDING
        predicted_B = _predicted(wide_BC)
        correct_B = predicted_B == labels_B
        own_B1 = wide_BC.gather(1, label_B[:, None])
        in_top_k_B = (_larger(wide_BC, own_B1, label_B) < self.top_k).logical_and_(valid_B)
        confidence_B1 = wide_BC.softmax(dim=1).gather(1, predicted_B[:, None])
        # NaN, and infinity times 0, equal nothing.
        finite_B = (torch.add(confidence_B1, own_B1, alpha=0) == confidence_B1).squeeze(1)
        # Rounded down. Of a row that is not finite it may be anything: the epoch ends in an error.
        fixed_B = confidence_B1.squeeze(1).mul_(ONE).long()
        bin_B = torch.bucketize(fixed_B, self.edges_M)
        skipped_B = used_B > used_B if indices_B is None else (indices_B != PADDING) > used_B
        # A row adds at ten places: 1 or 0, and at one of them its confidence. a > b: a and not b.
        none_B = torch.zeros_like(label_B)
        places = [
            label_B,
            label_B,
            predicted_B,
            bin_B,
            bin_B,
            bin_B,
            none_B,
            none_B,
            none_B,
            none_B,
        ]
        added = [valid_B, correct_B, valid_B, valid_B, correct_B, valid_B]
        added += [in_top_k_B, used_B > finite_B, used_B > valid_B, skipped_B]
        places_10B = torch.stack(places).add_(self.starts_10[:, None])
        added_10B = torch.stack(added).long()
        added_10B[5].mul_(fixed_B)
        self.counts_K.index_add_(0, places_10B.view(-1), added_10B.view(-1))
        self.loss_sums.add_(torch.stack([loss_sum, weight_sum]))
        if indices_B is not None:
            first = torch.where(used_B > valid_B, indices_B, NO_INDEX).amin()
            torch.minimum(self.first_bad, first, out=self.first_bad)

    def reset(self) -> None:
        super().reset()
        self.first_bad.fill_(NO_INDEX)

    def compute(self) -> dict[str, Tensor]:
        """The epoch's numbers; call it on all ranks together.

        Returns:
            float64 scalars by the names of `measures.py` (acc_top1, loss, ...), NaN where a number
            does not exist; and the counts support_NC, correct_NC (by node), predicted_C and
            skipped, the images that could not be read, integers

        Raises:
            ValueError: a row had logits that are not finite
            BadLabelError: a label is not a class
        """
        counts_K, loss_sums = sum_over_ranks(self.counts_K), sum_over_ranks(self.loss_sums)
        support_C, correct_C, predicted_C, single_3, images_M, right_M, fixed_M, skipped_1 = (
            counts_K.split(self._parts)
        )
        top_k_hits, nan_rows, bad_labels = single_3
        self._raise_if(nan_rows, bad_labels)
        counts = Counts(
            support_C=support_C,
            correct_C=correct_C,
            predicted_C=predicted_C,
            top_k_hits=top_k_hits,
            loss_sum=loss_sums[0],
            weight_sum=loss_sums[1],
            bin_images_M=images_M,
            bin_correct_M=right_M,
            bin_confidence_M=fixed_M.double() / ONE,
        )
        scalars = {
            one.name: torch.as_tensor(one.compute(counts), dtype=torch.float64)
            for one in reported(self.top_k, self.num_classes)
        }
        support_NC, correct_NC = self._by_node(counts_K).split(self.num_classes, dim=1)
        tables = {"support_NC": support_NC, "correct_NC": correct_NC}
        return scalars | tables | {"predicted_C": predicted_C, "skipped": skipped_1.sum()}

    def _by_node(self, counts_K: Tensor) -> Tensor:
        """Integers [N, 2C], support and correct of each class by node. A rank holds the counts of
        its own node alone; the table of all nodes is there only when it is asked for.

        Args:
            counts_K: over all ranks
        """
        ends = 2 * self.num_classes
        if self.num_nodes == 1:
            return counts_K[None, :ends]
        table = self.counts_K.new_zeros(self.num_nodes, ends, dtype=torch.int32)
        table[self.node_rank] = self.counts_K[:ends]
        return sum_over_ranks(table)

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
        state = {"counts_K": self.counts_K, "loss_sums": self.loss_sums}
        return {name: sum_over_ranks(value).cpu() for name, value in state.items()}

    def resume_from(self, state: dict[str, Tensor], rank: int) -> None:
        """Go on with `state_over_ranks` on any number of ranks: rank 0 takes all of it. The state
        of an earlier version has the counts by node, and may lack the last columns: this epoch has
        no calibration error if those of the bins are among them."""
        self.reset()
        self._update_count = 1  # torchmetrics would warn if the epoch has no batch left
        if rank != 0:
            return
        counts_K = state["counts_K"] if "counts_K" in state else state["counts_NK"].sum(dim=0)
        self.counts_K[: len(counts_K)] += counts_K.to(self.counts_K)
        self.loss_sums += state["loss_sums"].to(self.loss_sums)

    def _first_bad_of_all_ranks(self) -> int:
        first = self.first_bad.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        return int(first)


def _predicted(logits_BC: Tensor) -> Tensor:
    """[B], the first class with the largest logit; any class for a row with NaN."""
    C = logits_BC.shape[1]
    if logits_BC.device.type != "cpu" or C < FEW:
        return logits_BC.argmax(dim=1)
    # A CPU does the same eight times as fast by operations that it can vectorise: of the classes
    # that have the largest logit, the first one has the largest number, counted from the end.
    has_it_BC = torch.empty_like(logits_BC)
    torch.eq(logits_BC, logits_BC.amax(dim=1, keepdim=True), out=has_it_BC)
    number_B = has_it_BC.mul_(_numbers(logits_BC, C, 0, -1)).amax(dim=1)
    return (C - number_B.long()).clamp(max=C - 1)


def _larger(logits_BC: Tensor, own_B1: Tensor, label_B: Tensor) -> Tensor:
    """[B], how many logits are larger than that of the label, `own_B1`, or equal and before it."""
    numbers_C = _numbers(logits_BC, 0, logits_BC.shape[1])
    # 1 and 0 in the type of the logits: a CPU compares to them eight times as fast as to booleans.
    ahead_BC, other_BC = torch.empty_like(logits_BC), torch.empty_like(logits_BC)
    torch.lt(numbers_C, label_B[:, None].to(logits_BC.dtype), out=ahead_BC)
    ahead_BC.mul_(torch.eq(logits_BC, own_B1, out=other_BC))
    return ahead_BC.add_(torch.gt(logits_BC, own_B1, out=other_BC)).sum(dim=1)


def _numbers(like: Tensor, *range_of: int) -> Tensor:
    return torch.arange(*range_of, dtype=like.dtype, device=like.device)
