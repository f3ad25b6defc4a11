"""Optimizers by name: `model.optimizer=sgd`.

Each is one function below; its keyword-only parameters are its settings, as `model.momentum`.
"""

from typing import Annotated

from torch.optim import SGD, AdamW, Optimizer

from clf.config import register
from clf.config.about import About


@register(name="adamw", group="optimizer")
def adamw(
    groups: list[dict],
    learning_rate: float,
    *,
    beta1: Annotated[float, About("decay of the mean gradient", 0.0, 0.999999)] = 0.9,
    beta2: Annotated[float, About("decay of the mean squared gradient", 0.0, 0.999999)] = 0.999,
    eps: Annotated[float, About("added to the root of the mean square", 0.0)] = 1e-8,
) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101)."""
    return AdamW(fused_adamw(groups), lr=learning_rate, betas=(beta1, beta2), eps=eps)


@register(name="sgd", group="optimizer")
def sgd(
    groups: list[dict],
    learning_rate: float,
    *,
    momentum: Annotated[float, About("share of the last direction that is kept", 0.0, 1.0)] = 0.9,
    nesterov: Annotated[bool, About("Nesterov's momentum")] = False,
) -> Optimizer:
    """Stochastic gradient descent."""
    groups = fused(groups, "cuda")  # on a CPU torch's fused SGD is no faster than its plain one
    return SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov)


@register(name="lamb", group="optimizer", whole_weights=True, needs="timm")
def lamb(
    groups: list[dict],
    learning_rate: float,
    *,
    beta1: Annotated[float, About("decay of the mean gradient", 0.0, 0.999999)] = 0.9,
    beta2: Annotated[float, About("decay of the mean squared gradient", 0.0, 0.999999)] = 0.999,
    eps: Annotated[float, About("added to the root of the mean square", 0.0)] = 1e-6,
) -> Optimizer:
    """LAMB, for large batches (You et al. 2019, arXiv 1904.00962), as timm has it. Its own limit of
    the gradient is off: `strategy.gradient_clip` sets one for every optimizer."""
    from timm.optim import Lamb

    return Lamb(groups, lr=learning_rate, betas=(beta1, beta2), eps=eps, max_grad_norm=None)


@register(name="lars", group="optimizer", whole_weights=True, needs="timm")
def lars(
    groups: list[dict],
    learning_rate: float,
    *,
    momentum: Annotated[float, About("share of the last direction that is kept", 0.0, 1.0)] = 0.9,
    nesterov: Annotated[bool, About("Nesterov's momentum")] = False,
    lars_trust: Annotated[float, About("a weight's step / its norm, at rate 1", 0.0)] = 0.001,
) -> Optimizer:
    """LARS, SGD for large batches (You et al. 2017, arXiv 1708.03888), as timm has it. Its learning
    rate is of the order of 1 and more."""
    from timm.optim import Lars

    return Lars(
        groups, lr=learning_rate, momentum=momentum, nesterov=nesterov, trust_coeff=lars_trust
    )


def fused_adamw(groups: list[dict]) -> list[dict]:
    """The groups with AdamW's fused step, which takes half of the plain one's time on a CPU too."""
    return fused(groups, "cuda", "cpu")


def fused(groups: list[dict], *devices: str) -> list[dict]:
    """Ask for torch's fused step, one kernel for all weights, where all of them are on a device of
    one of these types.

    It is an option of the groups: as an argument of the optimizer it would also take over the
    unscaling of 16-mixed gradients, which Lightning then refuses to clip.
    """
    types = {p.device.type for group in groups for p in group["params"]}
    if len(types) == 1 and types <= set(devices):
        return [{**group, "fused": True} for group in groups]
    return groups
