"""Batches on their way to the device: over a stream of their own, while the device computes.

Lightning copies a batch when the step begins, in the stream that computes: the copy waits for the
step before, and the step for the copy. Here the copy of the next batch begins as soon as its images
are there, beside whatever the device is doing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clf.batch import ClassificationBatch


class OnItsWay(NamedTuple):
    """A batch whose copy has begun."""

    batch: ClassificationBatch
    arrived: Any  # the event after the copy; None: it is there already


class Courier:
    """Brings batches to a device, in the order in which they were sent.

    On a CPU, or without a device, a batch stays as it is. On a GPU the host never waits: the stream
    that computes waits for the copy where a batch is handed out.

    Args:
        device: of this rank; None: no copies
        cuda: torch.cuda, or what stands for it in a test
    """

    def __init__(self, device: torch.device | None, cuda: Any = torch.cuda) -> None:
        self.device, self.cuda = device, cuda
        self.copies = device is not None and device.type == "cuda"
        self._stream = cuda.Stream(device) if self.copies else None

    def send(
        self, batch: ClassificationBatch, pictures: Callable[[Tensor], Tensor] | None = None
    ) -> OnItsWay:
        """Begin to copy a batch, from pinned memory, which stays taken until the copy is done.

        Args:
            pictures: makes the images there of what the batch has in their place
        """
        if self._stream is None:
            return OnItsWay(_with_pictures(batch, pictures), None)
        with self.cuda.stream(self._stream):
            moved: Any = {
                key: tensor.to(self.device, non_blocking=True)
                for key, tensor in _with_pictures(batch, pictures).items()
            }
            return OnItsWay(moved, self._stream.record_event())

    def hand_out(self, sent: OnItsWay) -> ClassificationBatch:
        """The batch, for the stream that the caller computes in."""
        if sent.arrived is not None:
            computing = self.cuda.current_stream(self.device)
            computing.wait_event(sent.arrived)
            for tensor in sent.batch.values():
                # Its memory is not given to a later copy before the step is done with it.
                tensor.record_stream(computing)  # type: ignore[attr-defined]
        return sent.batch


def _with_pictures(batch: ClassificationBatch, pictures: Callable[[Tensor], Tensor] | None) -> Any:
    return batch if pictures is None else {**batch, "images": pictures(batch["images"])}
