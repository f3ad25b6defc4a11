"""The weights of a network in groups, each with a learning rate and a weight decay of its own."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from clf.optim.depth import depths

# Embeddings and scales of more than one dimension, by the names that torchvision gives them
NOT_DECAYED = (
    "class_token",
    "pos_embedding",
    "relative_position_bias_table",
    "logit_scale",
    "layer_scale",
)


def parameter_groups(
    network: nn.Module,
    weight_decay: float,
    learning_rate: float = 0.0,
    head: nn.Module | None = None,
    head_lr_factor: float = 1.0,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Decay matrices and kernels only: biases and normalisation scales, which have one dimension,
    and embeddings (`not_decayed`) are left alone.

    That is the usual recipe for convolutional networks (He et al., "Bag of Tricks",
    arXiv:1812.01187, section 3.1). These are two groups. With one of the last two arguments there
    are two for each learning rate, and each has a name. A group without weights is left out.

    Args:
        learning_rate: the peak; needed with one of the last two
        head: maps features to classes
        head_lr_factor: learning rate of the head / of the layer below it
        layer_decay: learning rate of a layer / of the next one (BEiT, arXiv 2106.08254), besides
            that; None: all have the same

    Raises:
        ValueError: there is no head, whose learning rate was set
    """
    if head_lr_factor != 1 and head is None:
        raise ValueError(
            f"model.head_lr_factor={head_lr_factor}: {type(network).__name__} has no linear layer "
            "and no convolution that could be its head; let the model's head() return it, or set 1"
        )
    of_head = set(head.parameters()) if head is not None else set()
    numbers = depths(network, head) if layer_decay is not None else {}
    last, left_alone = max(numbers.values(), default=0), set(not_decayed(network))
    is_plain = head_lr_factor == 1 and layer_decay is None
    found: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kept = parameter.ndim <= 1 or name in left_alone
            key = (numbers.get(name, last), parameter in of_head and not is_plain, kept)
            found.setdefault(key, []).append(parameter)
    groups = []
    for (number, in_head, kept), parameters in sorted(found.items(), key=lambda item: item[0]):
        group = {"params": parameters, "weight_decay": 0.0 if kept else weight_decay}
        if not is_plain:
            layer = "backbone" if layer_decay is None else f"layer{number:02d}"
            factor = (head_lr_factor if in_head else 1.0) * (layer_decay or 1.0) ** (last - number)
            group["name"] = ("head" if in_head else layer) + ("-no-decay" if kept else "")
            group["lr"] = learning_rate * factor
        groups.append(group)
    return groups


def not_decayed(network: nn.Module) -> Iterator[str]:
    """The names of embeddings and scales that have more than one dimension: those of
    `NOT_DECAYED`, and those that the network's own `no_weight_decay()` gives, as in timm."""
    own = getattr(network, "no_weight_decay", None)
    patterns = sorted(own()) if callable(own) else []
    for name, _ in network.named_parameters():
        if name.rpartition(".")[2] in NOT_DECAYED or any(fnmatchcase(name, p) for p in patterns):
            yield name


def not_hidden(network: nn.Module, head: nn.Module | None) -> list[nn.Parameter]:
    """The weights that are no map from features to features: those of the head, and embeddings."""
    embeddings = set(not_decayed(network))
    of_head = list(head.parameters()) if head is not None else []
    return of_head + [one for name, one in network.named_parameters() if name in embeddings]
