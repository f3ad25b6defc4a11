"""The head of a network: the layer that maps features to classes.

Weights to start from leave it out, it may have a learning rate of its own, and a backbone is what
is left without it.
"""

from typing import Any

from torch import Tensor, nn


def head_of(network: nn.Module) -> nn.Module | None:
    """The layer that a network of timm calls its classifier; of any other network the last linear
    layer, or without one the last convolution (SqueezeNet). None if there is neither."""
    if callable(classifier := getattr(network, "get_classifier", None)):
        named = classifier()
        if isinstance(named, nn.Linear | nn.Conv2d):
            return named
    for kind in (nn.Linear, nn.Conv2d):
        layers = [module for module in network.modules() if isinstance(module, kind)]
        if layers:
            return layers[-1]
    return None


def name_within(network: nn.Module, module: nn.Module | None) -> str | None:
    """The name of a module as the keys of the network's state dict have it, such as
    "classifier.1"; None if it is no part of the network."""
    return next((name for name, part in network.named_modules() if part is module), None)


def check_logits(network: nn.Module, logits: Any, expected: tuple[int, int]) -> None:
    """ValueError if a network gives something else than logits [B, C], which the loss would not say
    as clearly.

    Args:
        expected: (B, C)
    """
    if isinstance(logits, Tensor) and tuple(logits.shape) == expected:
        return
    given = f"a {type(logits).__name__}"
    if isinstance(logits, Tensor):
        given = f"a tensor of shape {tuple(logits.shape)}"
    raise ValueError(
        f"{type(network).__name__} gave {given}; expected logits of shape {expected}, a row an "
        "image and a column a class"
    )
