"""A network with everything that trips up a strategy: tied weights, a parameter group without
parameters and one that is frozen, a layer that is never used, and one that only some steps use."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from clf.models.base import BaseClassificationModel


class OddNetwork(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.frozen = nn.Conv2d(8, 8, 3, 1, 1, bias=False).requires_grad_(False)
        self.first = nn.Conv2d(8, 8, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.second.weight = self.first.weight
        self.never = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.sometimes = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))  # less than there are ranks
        self.head = nn.Linear(8, classes, bias=False)
        self.use = False

    def forward(self, images: Tensor) -> Tensor:
        x = silu(self.frozen(silu(self.stem(images))))
        x = silu(self.second(silu(self.first(x))))
        if self.training and self.use:
            x = x + self.sometimes(x)
        return self.head(x.mean((2, 3))) * self.scale


class OddModel(BaseClassificationModel):
    """Every third step uses `network.sometimes`. Its optimizer is SGD with these arguments, or
    AdamW."""

    sgd: dict[str, Any] | None = None

    def build_network(self) -> nn.Module:
        return OddNetwork(self.num_classes)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        network: Any = self.network
        network.use = self.trainer.global_step % 3 == 1

    def configure_optimizers(self) -> Any:
        network: Any = self.network
        frozen = set(network.frozen.parameters())
        others = [p for p in network.parameters() if p not in frozen]
        groups: list[dict[str, Any]] = [
            {"params": [], "weight_decay": 0.0},
            {"params": list(frozen), "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.1},
        ]
        if self.sgd is not None:
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=0.02, **self.sgd)
        else:
            optimizer = torch.optim.AdamW(groups, lr=3e-3)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class ByMicroBatch(OddModel):
    """Some micro-batches use `network.sometimes`: so may one rank alone, or none in a step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        network: Any = self.network
        network.use = bool(torch.rand(()) < 0.2)  # seeded by the micro-batch's number


class PlainSgd(OddModel):
    """An optimizer that keeps no tensor: SGD without momentum."""

    sgd = {}


class MomentumSgd(OddModel):
    sgd = {"momentum": 0.9}


class WithoutDimensions(OddModel):
    def build_network(self) -> nn.Module:
        network = OddNetwork(self.num_classes)
        network.scale = nn.Parameter(torch.tensor(1.0))
        return network


class Late(OddModel):
    """Uses every parameter in its first step, and not in the next one."""

    def build_network(self) -> nn.Module:
        network = OddNetwork(self.num_classes)
        network.never = nn.Identity()
        return network

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        network: Any = self.network
        network.use = self.trainer.global_step != 1
