"""The weights of a network in groups, each with a learning rate and a weight decay of its own."""

from torch import nn


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Decay matrices and kernels only: biases and normalisation scales have one dimension and are
    left alone.

    That is the usual recipe for convolutional networks (He et al., "Bag of Tricks",
    arXiv:1812.01187, section 3.1).
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
