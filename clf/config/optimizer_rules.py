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
        yield (
            "model.nesterov=true: needs momentum; set model.momentum=0.9, or model.nesterov=false"
        )


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


def optimizer_notes(cfg: RunConfig) -> Iterator[str]:
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
    if epochs is None and every is None:
        yield (
            "model.schedule=step: does not say when the learning rate falls; set "
            "model.step_epochs=[30,60,80], or model.step_every=30"
        )
        return
    if epochs is not None and every is not None:
        yield (
            "model.schedule=step: says twice when the learning rate falls; set "
            "model.step_epochs=null, or model.step_every=null"
        )
        return
    warm = min(1, cfg.epochs - 1) if cfg.model.warmup_epochs is None else cfg.model.warmup_epochs
    given, falls = _falls(cfg)
    if falls != sorted(set(falls)) or not falls:
        yield f"{given}: expected epochs in ascending order, such as [30,60,80]"
    elif falls[0] <= warm:
        yield (
            f"{given}: epoch {falls[0]} is not after the warm-up, which takes {warm}; set a later "
            "one, or model.warmup_epochs=0"
        )


def _falls(cfg: RunConfig) -> tuple[str, list[int]]:
    """The setting of `model.schedule=step` as it is typed, and the epochs that it names, or the
    first of them."""
    own = vars(cfg.model)
    epochs, every = own.get("step_epochs"), own.get("step_every")
    if epochs is None:
        return f"model.step_every={every}", [] if every is None else [every]
    return f"model.step_epochs={show(epochs)}", epochs


def schedule_notes(cfg: RunConfig) -> Iterator[str]:
    """What a run is too short for. It may be a first try of a longer one."""
    warm = cfg.model.warmup_epochs or 0
    if warm >= cfg.epochs:
        yield (
            f"model.warmup_epochs={warm}: fills all of epochs={cfg.epochs}; "
            f"model.schedule={cfg.model.schedule} does not begin"
        )
    given, falls = _falls(cfg)
    late = [fall for fall in falls if fall >= cfg.epochs]
    if cfg.model.schedule == "step" and late:
        yield (
            f"{given}: epochs={cfg.epochs} end before the learning rate falls at epoch "
            f"{' and '.join(str(fall) for fall in late)}"
        )


OPTIMIZER_RULES = [packages, optimizer, momentum, adaptive, step]
