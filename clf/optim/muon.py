"""Muon for the hidden weights of a network, AdamW for the rest: `model.optimizer=muon`."""

from collections.abc import Callable, Collection
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from clf.config import register
from clf.config.about import About
from clf.optim.optimizers import fused_adamw


@register(name="muon", group="optimizer", whole_weights=True)
def muon(
    groups: list[dict],
    learning_rate: float,
    not_hidden: Collection[nn.Parameter],
    *,
    momentum: Annotated[float, About("of the hidden weights", 0.0, 1.0)] = 0.95,
    nesterov: Annotated[bool, About("Nesterov's momentum, of the hidden weights")] = True,
    muon_iterations: Annotated[
        int, About("Newton-Schulz iterations, which make an update orthogonal", 1, 99)
    ] = 5,
    beta1: Annotated[float, About("AdamW's decay of the mean gradient", 0.0, 0.999999)] = 0.9,
    beta2: Annotated[float, About("AdamW's decay of its square", 0.0, 0.999999)] = 0.999,
    eps: Annotated[float, About("AdamW's, added to the root of the mean square", 0.0)] = 1e-8,
) -> Optimizer:
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for weights of two and more
    dimensions, but the head and embeddings, and AdamW for all others.

    A kernel counts as the matrix [out, in * height * width]. Muon's learning rate is scaled so that
    an update has the size of AdamW's (Liu et al. 2025, arXiv 2502.16982): one number serves both.

    Raises:
        ValueError: the network has no weight for Muon
    """
    apart = set(not_hidden)
    hidden: list[dict] = []
    others: list[dict] = []
    for group in groups:
        for kind in (hidden, others):
            weights = [
                p for p in group["params"] if (p.ndim > 1 and p not in apart) == (kind is hidden)
            ]
            if weights:
                kind.append({**group, "params": weights})
                if kind is hidden and "name" in group:
                    kind[-1]["name"] += "-muon"
    if not hidden:
        raise ValueError(
            "model.optimizer=muon: the network has no hidden weight of two or more dimensions, "
            "which are what it is for; set model.optimizer=adamw"
        )
    return MuonAndAdamW(
        hidden,
        others,
        {
            "lr": learning_rate,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": muon_iterations,
            "adjust_lr_fn": "match_rms_adamw",
        },
        {"lr": learning_rate, "betas": (beta1, beta2), "eps": eps},
    )


class MuonAndAdamW(Optimizer):
    """torch's two optimizers as one, since Lightning's loop steps one.

    Its groups hold the network's own weights, and its state has their shapes, so a checkpoint is
    like that of any optimizer. torch's Muon takes matrices alone: it steps a matrix of each weight,
    which shares the weight's memory unless that is in channels_last. In either memory format the
    matrix has the same columns, so that the numbers are the same.

    Args:
        hidden, others: parameter groups for Muon, and for AdamW
        of_muon, of_adamw: their arguments
    """

    def __init__(
        self,
        hidden: list[dict],
        others: list[dict],
        of_muon: dict[str, Any],
        of_adamw: dict[str, Any],
    ) -> None:
        self.matrices = {p: p.detach().flatten(1) for group in hidden for p in group["params"]}
        self.muon = Muon([{**group, "params": self._of(group)} for group in hidden], **of_muon)
        self.adamw = AdamW(fused_adamw(others), **of_adamw) if others else None
        groups = [
            {**full, "params": group["params"], "optimizer": "muon"}
            for full, group in zip(self.muon.param_groups, hidden, strict=True)
        ]
        for full in self.adamw.param_groups if self.adamw else []:
            groups.append({**full, "optimizer": "adamw"})
        super().__init__(groups, {"lr": of_muon["lr"]})

    def _of(self, group: dict) -> list[Tensor]:
        return [self.matrices[p] for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_muon([one for one in self.param_groups if one["optimizer"] == "muon"])
        if self.adamw is not None:
            # It steps the network's own weights: it can work on these groups and this state.
            groups = [one for one in self.param_groups if one["optimizer"] == "adamw"]
            self.adamw.param_groups, self.adamw.state = groups, self.state
            self.adamw.step()
        return loss

    def _step_muon(self, groups: list[dict]) -> None:
        """Hand the settings, gradients and momentum to torch's Muon, and take the results."""
        for inner, group in zip(self.muon.param_groups, groups, strict=True):
            inner.update({key: value for key, value in group.items() if key != "params"})
        for weight, matrix in self.matrices.items():
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
            matrix.data = weight.detach().flatten(1)
            if weight in self.state:
                momentum = self.state[weight]["momentum_buffer"]
                self.muon.state[matrix] = {"momentum_buffer": momentum.flatten(1)}
        self.muon.step()
        for weight, matrix in self.matrices.items():
            if matrix.grad is None:
                continue
            if matrix.data_ptr() != weight.data_ptr():
                weight.copy_(matrix.reshape(weight.shape))
            momentum = self.muon.state[matrix]["momentum_buffer"]
            self.state[weight] = {"momentum_buffer": momentum.reshape(weight.shape)}
            matrix.grad = None
