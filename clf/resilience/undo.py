"""Take an optimizer's step back on the device, whatever the optimizer is.

torch's fused AdamW and SGD can leave a step out on the device; its other optimizers and those of
timm cannot, and SGD's momentum is not initialised if its first step is left out. So weights and
state are copied before the step, and the copies are taken back where a flag on the device says so.
That costs the memory of the weights and of the optimizer's state once more (under ZeRO: of this
rank's shard), and two passes over it in each step.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

Key = tuple[int, str]


class Undo:
    """Copies of tensors, and their return. The copies' memory is kept for the next step."""

    def __init__(self) -> None:
        self._copies: dict[Key, Tensor] = {}

    @torch.no_grad()
    def keep(self, tensors: Iterator[tuple[Key, Tensor]]) -> None:
        """Copy tensors as they are now."""
        for key, tensor in tensors:
            copy = self._copies.get(key)
            if copy is not None and copy.shape == tensor.shape and copy.device == tensor.device:
                copy.copy_(tensor)
            else:
                self._copies[key] = tensor.detach().clone()

    @torch.no_grad()
    def put_back(self, tensors: Iterator[tuple[Key, Tensor]], bad: Tensor | bool) -> None:
        """Give tensors their former contents, where `bad` (a boolean without dimensions, on the
        device) is true. What was not there before becomes 0, as it is in a new optimizer.

        A count of steps that the optimizer keeps on the host counts a step that is taken back.
        """
        for key, tensor in tensors:
            before = self._copies.get(key)
            if isinstance(bad, bool):
                if bad:
                    tensor.copy_(before) if before is not None else tensor.zero_()
            elif tensor.device == bad.device:
                if before is None:
                    tensor.masked_fill_(bad, 0)
                else:
                    tensor.copy_(torch.where(bad, before, tensor))


def changed_by(optimizer: Optimizer) -> Iterator[tuple[Key, Tensor]]:
    """The weights that an optimizer steps, and the tensors of its state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield (id(parameter), ""), parameter.data
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield (id(parameter), name), value
