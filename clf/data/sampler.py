"""Which images make which batch, on which rank. The global order is a pure function of (seed,
epoch); ranks take parts of it, so their number changes the speed and not the mathematics. Imports
no torch.

N images, B images per optimizer step over all ranks, m images per micro-batch, which is one forward
pass of one rank.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clf.batch import PADDING
from clf.config import DataConfig
from clf.config.batch_rules import batch_fault, size_fault
from clf.data.reader import DataError

# Keep the generators of one seed apart; 4 is that of clf/models/mix.py.
ORDER, CLASS_ORDER, IMAGE_ORDER, REPEATS = 1, 2, 3, 5


class MicroBatch(NamedTuple):
    """One forward pass of one rank, before its images are read; PADDING where there is no image."""

    indices_m: np.ndarray  # int64, in the split
    positions_m: np.ndarray  # int64, in the epoch's global order


def index_type(count: int) -> type[np.signedinteger]:
    """Of the positions of so many images, with half the memory where that is enough."""
    return np.int32 if count <= np.iinfo(np.int32).max else np.int64


def accumulation(cfg: DataConfig, world_size: int) -> int:
    """Micro-batches of a rank per optimizer step.

    Raises:
        ValueError: the batch cannot be cut into equal micro-batches for all ranks, or cannot hold
            each of its images `repeats` times
    """
    micro = cfg.micro_batch_size
    if fault := batch_fault(cfg, world_size):
        raise ValueError(fault)
    return cfg.batch_size // (world_size * micro) if micro else 1


def micro_batch_size(cfg: DataConfig, world_size: int) -> int:
    """Images per forward pass of a rank in training; ValueError as from `accumulation`."""
    return cfg.batch_size // world_size // accumulation(cfg, world_size)


class TrainSampler:
    """Each epoch's order, cut into the micro-batches of one rank, without a last incomplete batch.

    Step s trains on `order[s*B:(s+1)*B]`. Its j-th micro-batch is rank `j % world_size`'s, in
    accumulation step `j // world_size`.

    Args:
        labels_N: class of each image
        cfg: its `sampler` is "shuffle": each image at most once; or "class_balanced": every class
            equally often, its images in shuffled cycles, none a second time before all were used.
            With `repeats` each image that is drawn so stands that often in its step

    Raises:
        DataError: fewer images than a batch
    """

    def __init__(
        self,
        labels_N: np.ndarray,
        cfg: DataConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if fault := size_fault(cfg.batch_size, len(labels_N)):
            raise DataError(fault)
        self.labels_N = labels_N
        self.balanced, self.repeats = cfg.sampler == "class_balanced", cfg.repeats
        self.batch_size = cfg.batch_size
        self.size = (
            len(labels_N) // cfg.batch_size * cfg.batch_size
        )  # images of an epoch, all ranks
        self.micro = micro_batch_size(cfg, world_size)
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.index_type = index_type(len(labels_N))
        self._by_class = _sorted_by_class(labels_N, self.index_type) if self.balanced else None
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Micro-batches of this rank."""
        return self.size // self.micro // self.world_size

    def __iter__(self) -> Iterator[MicroBatch]:
        order = self.global_order()
        for start in range(self.rank * self.micro, self.size, self.world_size * self.micro):
            end = start + self.micro
            yield MicroBatch(order[start:end].astype(np.int64), np.arange(start, end))

    def global_order(self) -> np.ndarray:
        """Indices of the epoch's images over all ranks, [steps * B] of `index_type`."""
        count = self.size // self.repeats
        if self._by_class is not None:
            drawn = self._balanced_order(count, *self._by_class)
        else:
            rng = np.random.default_rng([ORDER, self.seed, self.epoch])
            drawn = np.arange(len(self.labels_N), dtype=self.index_type)
            rng.shuffle(drawn)
            drawn = drawn[:count]
        return drawn if self.repeats == 1 else self._repeated(drawn)

    def _repeated(self, drawn: np.ndarray) -> np.ndarray:
        """Each image `repeats` times in its step (Hoffer et al. 2020, arXiv 1901.09335), whose
        images are shuffled, so that neither a micro-batch nor a mixed pair holds one image alone.
        """
        by_step = drawn.reshape(-1, self.batch_size // self.repeats).repeat(self.repeats, axis=1)
        rng = np.random.default_rng([REPEATS, self.seed, self.epoch])
        return rng.permuted(by_step, axis=1).ravel()

    def _balanced_order(self, count: int, images_N: np.ndarray, sizes_C: np.ndarray) -> np.ndarray:
        """Rounds over all classes, each in an order of its own: batches are balanced as well.

        Args:
            images_N, sizes_C: as from `_sorted_by_class`
        """
        present, ends_C = np.flatnonzero(sizes_C), np.cumsum(sizes_C)
        rounds = -(-count // len(present))
        # A class stands once in each round, so its images are drawn for all rounds at once.
        drawn_PR = np.empty((len(present), rounds), dtype=self.index_type)
        for drawn_R, label in zip(drawn_PR, present.tolist(), strict=True):
            draw = np.random.default_rng([IMAGE_ORDER, self.seed, self.epoch, label])
            members = images_N[ends_C[label] - sizes_C[label] : ends_C[label]]
            for first in range(0, rounds, len(members)):
                cycle = draw.permutation(members)
                drawn_R[first : first + len(members)] = cycle[: rounds - first]
        rng = np.random.default_rng([CLASS_ORDER, self.seed, self.epoch])
        order = np.empty((rounds, len(present)), dtype=self.index_type)
        for place, order_P in enumerate(order):
            order_P[:] = drawn_PR[rng.permutation(len(present)), place]
        return order.ravel()[:count]


def _sorted_by_class(
    labels_N: np.ndarray, dtype: type[np.signedinteger]
) -> tuple[np.ndarray, np.ndarray]:
    """The images in the order of their classes, those of a class as they were; and the number of
    images of each class."""
    sizes_C = np.bincount(labels_N)
    # NumPy sorts integers of two bytes by counting, in one pass.
    fits = len(sizes_C) <= np.iinfo(np.uint16).max + 1
    order_N = np.argsort(labels_N.astype(np.uint16) if fits else labels_N, kind="stable")
    return order_N.astype(dtype), sizes_C


class EvalSampler:
    """Every image once, dealt out to the ranks in turns. Since images are in the order of their
    classes, each rank, and so each node, gets its share of every class.

    All ranks have equally many equally large batches, which collectives need. Where images run out,
    a rank has PADDING, at most `world_size - 1` rows in all. An empty split has no batches.
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        share = -(-count // world_size)
        self.indices = range(rank, share * world_size, world_size)  # PADDING from `size` on
        self.size = count  # images of an evaluation, over all ranks
        self.batch_size = batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        for start in range(0, len(self.indices), self.batch_size):
            part = np.array(self.indices[start : start + self.batch_size], dtype=np.int64)
            part[part >= self.size] = PADDING
            yield MicroBatch(part, part)
