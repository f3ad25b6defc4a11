"""strategy.gradient_checkpointing: keep only the inputs of blocks, and compute what is in them
again in the backward pass. About a third more time for much less memory, and the same numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(blocks: Sequence[nn.Module]) -> None:
    """Change the blocks in place; the names of their weights stay."""
    for block in blocks:
        block.forward = partial(  # type: ignore[method-assign]
            checkpoint,
            block.forward,
            use_reentrant=False,
            context_fn=partial(_contexts, block),
        )


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Of the forward pass, and of its repetition."""
    return nullcontext(), _statistics_stay(block)


@contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    """BatchNorm would count the repeated batch a second time: let it count in copies."""
    norms = [module for module in block.modules() if hasattr(module, "running_mean")]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
