"""This rank's memory of a model's weights under each strategy: whole tensors, or the shards of
ZeRO-3."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clf.parallel.lightning_internals import exchange
from clf.parallel.zero import ZeroStrategy


def own_parts(strategy: Any, module: nn.Module) -> list[Tensor]:
    """The memory in which this rank keeps the floating-point parameters, once the strategy is set
    up. The tensors stay the same while the model trains."""
    parameters = [p for p in module.parameters() if p.is_floating_point()]
    if isinstance(strategy, ZeroStrategy):
        return strategy.own_parts(parameters)
    return list(parameters)


def exchange_parts(strategy: Any, parts: list[Tensor], others: list[Tensor]) -> None:
    """Exchange the contents of `own_parts` with those of other tensors of the same shapes. A second
    exchange restores every bit, and no rank talks to another."""
    exchange(parts, others)
    if isinstance(strategy, ZeroStrategy):
        strategy.parts_changed()


@torch.no_grad()
def load_whole(strategy: Any, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of whole tensors into a model that the strategy has set up."""
    if isinstance(strategy, ZeroStrategy):
        strategy.load_weights(state)
    else:
        module.load_state_dict(state)
