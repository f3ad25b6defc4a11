"""Which settings of the optimizer and the schedule go together: a part of `clf.config.rules`."""

from collections.abc import Iterator
from importlib.util import find_spec

from clf.config.faults import show
from clf.config.registry import find
from clf.config.schema import ModelConfig, RunConfig

ADAPTIVE = ("lamb", "lars")  # a weight's step is in proportion to its norm
# What is usual where the defaults, which suit AdamW, do not: the two add the decay to the gradient.
USUAL = {
    "sgd": {"learning_rate": "0.1, or 0.01 to fine-tune,", "weight_decay": "1e-4"},
    "lars": {"learning_rate": "1 to 10", "weight_decay": "1e-4"},
}


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


def adaptive(cfg: RunConfig) -> Iterator[str]:
    """What timm's LAMB and LARS do not do as their papers do."""
    name, frozen = cfg.model.optimizer, cfg.model.freeze_epochs
    if name in ADAPTIVE and cfg.model.weight_decay == 0:
        plain = "adamw" if name == "lamb" else "sgd"
        yield (
            f"model.weight_decay=0.0: model.optimizer={name} adapts the steps of those weights "
            f"alone that decay, so none would be; set a small one such as 1e-6, or "
            f"model.optimizer={plain}"
        )
    if name == "lamb" and 0 < frozen < cfg.epochs:
        yield (
            f"model.freeze_epochs={frozen}: model.optimizer=lamb counts the steps of all weights "
            "together, so those of the backbone would begin too large; set 0, or "
            "model.optimizer=adamw"
        )


def notes(cfg: RunConfig) -> Iterator[str]:
    """Defaults that do not suit the optimizer."""
    name, defaults = cfg.model.optimizer, ModelConfig()
    for key, usual in USUAL.get(name, {}).items():
        if (value := getattr(cfg.model, key)) == getattr(defaults, key):
            yield (
                f"model.{key}={value}: the default, which suits adamw; with "
                f"model.optimizer={name} about {usual} is usual"
            )


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


OPTIMIZER_RULES = [packages, optimizer, momentum, adaptive, warmup, step]
