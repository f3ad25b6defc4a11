"""The optimizer and the schedule that a model's settings choose."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clf.config.registry import call
from clf.optim.groups import not_hidden, parameter_groups
from clf.optim.schedules import with_warmup


def optimizer_and_schedule(
    network: nn.Module, head: nn.Module | None, settings: Any, epochs: int, per_epoch: int
) -> tuple[Optimizer, LRScheduler]:
    """Both, ready for their first step.

    Args:
        head: what maps features to classes in the network, if it has such a part
        settings: a mapping with those of `ModelConfig` and of what they choose
        epochs: of the whole run
        per_epoch: how often the schedule moves in each of them
    """
    optimizer = call(
        "optimizer",
        settings["optimizer"],
        settings,
        parameter_groups(
            network,
            settings["weight_decay"],
            settings["learning_rate"],
            head,
            settings["head_lr_factor"],
            settings["layer_decay"],
        ),
        settings["learning_rate"],
        not_hidden=not_hidden(network, head),
    )
    optimizer.register_load_state_dict_post_hook(_lay_out_as_weights)

    def schedule(optimizer: Optimizer, steps: int, epochs: range) -> LRScheduler:
        name = settings["schedule"]
        return call("schedule", name, settings, optimizer, steps, epochs=epochs)

    warmup_epochs = settings["warmup_epochs"]
    if warmup_epochs is None:
        warmup_epochs = min(1, epochs - 1)
    return optimizer, with_warmup(
        optimizer,
        schedule,
        warmup=warmup_epochs * per_epoch,
        total=epochs * per_epoch,
        start_factor=settings["warmup_start_factor"],
        per_epoch=per_epoch,
    )


def _lay_out_as_weights(optimizer: Optimizer) -> None:
    """Give each state the memory order of its weight. A checkpoint of ZeRO, or of a run in another
    memory format, has another one, and torch's fused steps go through the memory as it lies: on a
    CPU they would pair each weight with the moments of another."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            is_like_it = isinstance(value, Tensor) and value.shape == weight.shape
            if is_like_it and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
