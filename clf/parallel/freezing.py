"""model.freeze_epochs: for the first epochs the head alone is trained, on features that stay."""

from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from clf.parallel.strategies import wrap_again


class FreezeBackbone(Callback):
    """Freezes all of the network but its head until epoch `epochs` begins.

    A frozen parameter requires no gradient. So the backward pass ends at the head, and an optimizer
    leaves the parameter alone: no decay, no moments, no count of steps; when it thaws, its state is
    as fresh as in a first step. Frozen modules are in evaluation mode: the statistics of BatchNorm
    stay, and nothing is dropped.

    The optimizer has all parameters from the start, so a checkpoint of either phase is one of the
    same groups. What is frozen follows from the epoch alone, so a run may go on from any step.

    Args:
        epochs: how many, from the first epoch on
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._frozen: list[nn.Parameter] | None = None  # None: the backbone is trained
        self._asleep: list[nn.Module] = []  # modules that train once they are thawed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._follow(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._follow(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # A run that goes on within an epoch, or exactly after one, has no start of that epoch.
        self._follow(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._thaw()

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = trainer.current_epoch < self.epochs
        if wanted == (self._frozen is not None):
            return
        if wanted:
            self._freeze(pl_module)
        else:
            self._thaw()
        wrap_again(trainer.strategy)

    def _freeze(self, model: Any) -> None:
        head: nn.Module | None = model.head()
        if head is None:
            raise ValueError(
                f"model.freeze_epochs={self.epochs}: {type(model.network).__name__} has no layer "
                "that is its head; override head() of the model to name it, or set 0"
            )
        kept = {id(p) for p in head.parameters()}  # with tied weights, the backbone's too
        self._frozen = [
            p for p in model.network.parameters() if p.requires_grad and id(p) not in kept
        ]
        for parameter in self._frozen:
            parameter.requires_grad_(False)
            parameter.grad = None
        self._asleep = [m for m in _outside(model.network, head) if m.training]
        for module in self._asleep:
            module.training = False

    def _thaw(self) -> None:
        for parameter in self._frozen or ():
            parameter.requires_grad_(True)
        for module in self._asleep:
            module.training = True
        self._frozen, self._asleep = None, []


def _outside(network: nn.Module, head: nn.Module) -> Iterator[nn.Module]:
    """The modules that are neither in the head nor around it."""
    in_head = {id(module) for module in head.modules()}
    for module in network.modules():
        if id(module) not in in_head and all(part is not head for part in module.modules()):
            yield module
