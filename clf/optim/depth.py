"""How deep in a network each weight lies, for learning rates that fall from layer to layer.

The rule: a layer is a block of the network, in the order in which blocks are defined. Plain
containers (`nn.Sequential`, `nn.ModuleList`, `nn.ModuleDict`) and whatever holds the head, or more
than half of all weights, such as the encoder of a vision transformer, are looked through: their
parts are blocks. Normalisation belongs to the block before it. Weights that the network holds
itself, such as a class token, belong to the first layer. The head is the last one. A network of
timm says it itself (`group_matcher`).
"""

from collections.abc import Iterator

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # not their subclasses


def depths(network: nn.Module, head: nn.Module | None) -> dict[str, int]:
    """The name of each weight -> the number of its layer, from 0, next to the image."""
    if callable(matcher := getattr(network, "group_matcher", None)):
        from timm.models import group_parameters

        return group_parameters(network, matcher(coarse=False), reverse=True)
    layers: list[list[nn.Module]] = []
    for block in _blocks(network, head, _size(network) / 2):
        if layers and all(parameter.ndim <= 1 for parameter in block.parameters()):
            layers[-1].append(block)
        else:
            layers.append([block])
    numbers: dict[nn.Parameter, int] = {}
    for number, layer in enumerate([*layers, [] if head is None else [head]]):
        for block in layer:
            for parameter in block.parameters():
                numbers.setdefault(parameter, number)
    return {name: numbers.get(parameter, 0) for name, parameter in network.named_parameters()}


def _blocks(module: nn.Module, head: nn.Module | None, half: float) -> Iterator[nn.Module]:
    """What has weights and is no head, in the order of its definition."""
    for child in module.children():
        parts = list(child.modules())
        is_large = len(parts) > 1 and _size(child) > half
        if child is head or not _size(child):
            continue
        if type(child) in CONTAINERS or is_large or any(part is head for part in parts):
            yield from _blocks(child, head, half)
        else:
            yield child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
