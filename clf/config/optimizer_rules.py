"""Which settings of the optimizer and the schedule go together: a part of `clf.config.rules`."""

from collections.abc import Iterator
from importlib.util import find_spec

from clf.config.faults import show
from clf.config.registry import find
from clf.config.schema import RunConfig


def warmup(cfg: RunConfig) -> Iterator[str]:
    epochs = cfg.model.warmup_epochs or 0
    if epochs >= cfg.epochs and epochs > 0:
        yield (
            f"model.warmup_epochs={epochs}: the warm-up would fill all of epochs={cfg.epochs}; "
            f"set model.warmup_epochs={cfg.epochs - 1} or less, or more epochs"
        )


def optimizer(cfg: RunConfig) -> Iterator[str]:
    """What an optimizer declares where it is registered."""
    name, entry = cfg.model.optimizer, find("optimizer", cfg.model.optimizer)
    if entry is not None and entry.whole_weights and cfg.strategy.name.startswith("deepspeed"):
        yield (
            f"model.optimizer={name}: looks at each weight as a whole, and {cfg.strategy.name} "
            "cuts weights into pieces; set strategy=ddp, or model.optimizer=adamw"
        )


def packages(cfg: RunConfig) -> Iterator[str]:
    """What is chosen by name and needs a package that is not there."""
    for group in ("optimizer", "schedule", "loss"):
        name = getattr(cfg.model, group)
        entry = find(group, name)
        if entry is not None and entry.needs and find_spec(entry.needs) is None:
            yield (
                f"model.{group}={name}: the package {entry.needs} is not installed; pip install "
                f"{entry.needs}, or choose another {group}"
            )


def momentum(cfg: RunConfig) -> Iterator[str]:
    own = vars(cfg.model)
    if own.get("nesterov") and own.get("momentum") == 0:
        yield "model.nesterov=true: needs model.momentum above 0, such as 0.9; or set false"


def step(cfg: RunConfig) -> Iterator[str]:
    """Of `model.schedule=step`: when it falls."""
    if cfg.model.schedule != "step":
        return
    own = vars(cfg.model)
    epochs, every = own.get("step_epochs"), own.get("step_every")
    warm = min(1, cfg.epochs - 1) if cfg.model.warmup_epochs is None else cfg.model.warmup_epochs
    if (epochs is None) == (every is None):
        yield (
            f"model.schedule=step: {'does not say' if epochs is None else 'says twice'} when the "
            "learning rate falls; set one of model.step_epochs=[30,60,80] and model.step_every=30"
        )
        return
    given = f"model.step_every={every}" if epochs is None else f"model.step_epochs={show(epochs)}"
    falls = [every] if epochs is None else epochs
    if falls != sorted(set(falls)) or not falls:
        yield f"{given}: expected epochs in ascending order, such as [30,60,80]"
    elif falls[0] <= warm:
        yield (
            f"{given}: epoch {falls[0]} is not after the warm-up, which takes {warm}; set a later "
            "one, or model.warmup_epochs=0"
        )
    elif falls[-1] >= cfg.epochs:
        yield (
            f"{given}: the learning rate would not fall before epoch {falls[-1]}, and the run has "
            f"epochs={cfg.epochs}; set an earlier epoch, or more epochs"
        )


OPTIMIZER_RULES = [packages, optimizer, momentum, warmup, step]
