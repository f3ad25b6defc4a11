"""Threads make the batches. Decoding and resizing release the GIL, so threads scale; unlike worker
processes they start at once, copy nothing, and no signal can reach them.

B images of a batch, 3 channels, S pixels a side.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clf.batch import PADDING, ClassificationBatch
from clf.data.ahead import Courier, OnItsWay
from clf.data.bad_images import BadImages
from clf.data.cache import Cache
from clf.data.decode import ON_WHITE, Look, UnreadableError, open_picture
from clf.data.decoding_threads import start_threads
from clf.data.index import Split
from clf.data.on_device import COLUMNS, OnDevice
from clf.data.picture import Finished, Picture
from clf.data.sampler import EvalSampler, MicroBatch, TrainSampler
from clf.data.transforms import EvalTransform, TrainTransform

SAMPLE = 0  # keeps the samples' generators apart from the samplers'
Unread = dict[int, UnreadableError]  # by row of a batch
# Images of a task: fewer cost more bookkeeping, more leave threads idle at a batch's end.
CHUNK = 8


@dataclass
class Filling:
    """A batch that the threads are filling."""

    batch: ClassificationBatch
    micro: MicroBatch
    parts: list[Future[Unread]]
    sent: OnItsWay | None = None

    def is_whole(self) -> bool:
        """Whether it is filled, and nothing was wrong with its images."""
        return all(one.done() and not one.exception() and not one.result() for one in self.parts)


class ThreadedLoader:
    """Yields ClassificationBatches in the order of its sampler.

    What it yields depends on (seed, epoch, position) alone, not on `threads` or `prefetch`. It can
    be resumed: Lightning's fit loop saves and loads its state with each checkpoint.

    Args:
        split: images and labels
        sampler: gives the batches of this rank; Lightning calls its `set_epoch`
        transform: is applied to each image, with a generator of the sample's own
        seed: of the samples' generators
        threads: number of threads that decode; 0: the calling thread does, so that a breakpoint
            stops there
        prefetch: batches made ahead of the one in use
        look: of images that leave it open
        bad: takes the images that cannot be read, whose rows get the label PADDING and keep their
            index; None: the first one is a DataError
        courier: brings the batches to this rank's device; None: they stay in the host's memory
        cache: has the images, or most of them, decoded
        store: has the images on the device, and crops them there; a batch has, until it is sent,
            what to take of each
    """

    def __init__(
        self,
        split: Split,
        sampler: TrainSampler | EvalSampler,
        transform: TrainTransform | EvalTransform,
        seed: int,
        threads: int,
        prefetch: int = 4,
        look: Look = ON_WHITE,
        bad: BadImages | None = None,
        courier: Courier | None = None,
        cache: Cache | None = None,
        store: OnDevice | None = None,
    ) -> None:
        self.look, self.bad, self._left_out = look, bad, 0  # so many in this epoch, by this rank
        self.split, self.sampler, self.transform = split, sampler, transform
        self.cache, self.store, self.courier = cache, store, courier or Courier(None)
        self._now = transform  # as it is in the epoch that is iterated over
        self.batch_sampler = None  # Lightning asks every loader with a sampler for it
        self.seed, self.threads, self.prefetch = seed, threads, prefetch
        self.pin = torch.cuda.is_available()
        self._epoch, self._handed_out, self._resumes = 0, 0, False
        self.waited_s = 0.0  # seconds that the caller has waited for batches, over all iterations

    def __len__(self) -> int:
        """Batches of a whole epoch, even where an iteration resumes in its middle."""
        return len(self.sampler)

    @property
    def num_images(self) -> int:
        """Images of the split, over all ranks."""
        return len(self.split)

    def path(self, index: int) -> str:
        """The file of an image, by its position in the split; see `Split.path`."""
        return self.split.path(index)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches the caller has received; those made ahead do not
        count."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on from there, if it is of the same epoch."""
        self._epoch, self._handed_out, self._resumes = state["epoch"], state["batches"], True

    def __iter__(self) -> Iterator[ClassificationBatch]:
        # As a generator it starts nothing before the first batch is asked for. Lightning makes an
        # iterator before it sets the epoch, and another one that it never uses.
        epoch = self.sampler.epoch
        start = self._handed_out if self._resumes and self._epoch == epoch else 0
        self._epoch, self._handed_out, self._resumes = epoch, start, False
        self._left_out = 0
        self._now = self.transform.in_epoch(epoch)
        batches = iter(self.sampler)
        for _ in range(start):
            next(batches)
        asked_at = time.perf_counter()
        for batch in self._in_thread(batches) if self.threads == 0 else self._ahead(batches):
            self._handed_out += 1
            self.waited_s += time.perf_counter() - asked_at
            yield batch
            asked_at = time.perf_counter()

    def _in_thread(self, batches: Iterator[MicroBatch]) -> Iterator[ClassificationBatch]:
        here = torch.get_num_threads()
        for micro in batches:
            batch = self._empty(micro)
            torch.set_num_threads(1)  # an image is too small to be worth sharing over cores
            try:
                unread = self._fill(batch, micro, self._epoch, range(len(micro.indices_m)))
            finally:
                torch.set_num_threads(here)
            self._leave_out(batch, micro, unread)
            yield self.courier.hand_out(self.courier.send(batch, self._pictures()))

    def _ahead(self, batches: Iterator[MicroBatch]) -> Iterator[ClassificationBatch]:
        """Keeps `prefetch` batches in the making. The threads stop however the caller leaves."""
        queue: deque[Filling] = deque()
        pool = start_threads(self.threads)
        try:
            while True:
                while len(queue) <= self.prefetch and (micro := next(batches, None)) is not None:
                    queue.append(self._submit(pool, micro))
                if not queue:
                    return
                first = queue.popleft()
                sent = first.sent or self._send(first)
                if queue and queue[0].is_whole():  # one ahead of the step that begins now
                    queue[0].sent = self._send(queue[0])
                yield self.courier.hand_out(sent)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, micro: MicroBatch) -> Filling:
        batch, size = self._empty(micro), len(micro.indices_m)
        chunks = [range(size)[start : start + CHUNK] for start in range(0, size, CHUNK)]
        fill = self._fill
        parts = [pool.submit(fill, batch, micro, self._epoch, rows) for rows in chunks]
        return Filling(batch, micro, parts)

    def _send(self, one: Filling) -> OnItsWay:
        """Wait until a batch is whole, and send it to the device."""
        unread: Unread = {}
        for part in one.parts:
            unread |= part.result()
        self._leave_out(one.batch, one.micro, unread)
        return self.courier.send(one.batch, self._pictures())

    def _pictures(self) -> Callable[[Tensor], Tensor] | None:
        """What makes the images on the device, where they live there."""
        return None if self.store is None else partial(self.store.pictures, size=self._now.size)

    @torch.inference_mode(False)  # other threads could not fill tensors of the caller's inference
    def _empty(self, micro: MicroBatch) -> ClassificationBatch:
        """A batch with its labels and indices; the images are still to be filled in."""
        size, indices_B = self._now.size, micro.indices_m
        labels_B = np.where(indices_B == PADDING, PADDING, self.split.labels[indices_B])
        if self.store is not None:
            images = torch.zeros((len(indices_B), len(COLUMNS)), dtype=torch.int64)
        else:
            shape = len(indices_B), size, size, 3
            images_BHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin)
            images = images_BHWC.permute(0, 3, 1, 2)  # channels_last
        return ClassificationBatch(
            images=images,
            labels=self._pinned(labels_B),
            indices=self._pinned(indices_B),
        )

    def _pinned(self, numbers_B: np.ndarray) -> Tensor:
        tensor = torch.tensor(numbers_B, dtype=torch.int64)
        return tensor.pin_memory() if self.pin else tensor

    @torch.inference_mode()  # bookkeeping for gradients would take 3 % of an image's time
    def _fill(
        self, batch: ClassificationBatch, micro: MicroBatch, epoch: int, rows: range
    ) -> Unread:
        """Read the images of some rows; those that cannot be read, where `bad` takes them."""
        images_BCHW, indices, positions = batch["images"], micro.indices_m, micro.positions_m
        # All at once, because decoding an image empties the CPU's cache of what makes these.
        rngs = {
            row: np.random.default_rng([SAMPLE, self.seed, epoch, int(positions[row])])
            for row in rows
            if indices[row] != PADDING
        }
        unread: Unread = {}
        for row in rows:
            if row not in rngs:
                images_BCHW[row].zero_()
                continue
            index = int(indices[row])
            try:
                if self.store is not None:
                    self.store.fill(images_BCHW[row], index, self._now, rngs[row])
                elif isinstance(picture := self._picture(index), Finished):
                    images_BCHW.permute(0, 2, 3, 1).numpy()[row] = picture.pixels_HWC
                else:
                    images_BCHW[row].copy_(self._now(picture, rngs[row]))
            except Exception as error:
                if self.bad is not None and isinstance(error, UnreadableError):
                    unread[row] = error
                    continue
                error.add_note(f"while reading {self.split.path(index)}")
                raise
        return unread

    def _picture(self, index: int) -> Picture | Finished:
        if self.cache is not None and (picture := self.cache.picture(index)) is not None:
            return picture
        return open_picture(self.split.images[index], self.split.path(index), self.look)

    def _leave_out(self, batch: ClassificationBatch, micro: MicroBatch, unread: Unread) -> None:
        """Mask the rows that could not be read. No other row changes: each has a generator of its
        own. Their pixels are those of the next row that could be read, so that BatchNorm meets
        nothing but images."""
        if not unread or self.bad is None:
            return
        size = len(micro.indices_m)
        read = [row for row in range(size) if micro.indices_m[row] != PADDING and row not in unread]
        for row, error in sorted(unread.items()):
            other = min(read, key=lambda one: (one - row) % size, default=None)
            if other is None:
                batch["images"][row].zero_()
            else:
                batch["images"][row].copy_(batch["images"][other])
            batch["labels"][row] = PADDING
            self.bad.add(self.split.path(int(micro.indices_m[row])), str(error))
        self._left_out += len(unread)
        # The ranks add up their numbers at the epoch's end; this one alone may be enough.
        self.bad.check(self.split.name, self._left_out, self.sampler.size)
