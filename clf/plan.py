"""From what was asked for to the run that will be: the settings, their rules and the data together.

    cfg = compose(["model=resnet50", "data.batch_size=256"])  # raises ConfigError
    cfg = resolve(cfg)  # name, absolute paths, number of classes

Imports no torch.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from clf.config import ConfigError, RunConfig
from clf.config.compose import CONFIG_DIR, read
from clf.config.faults import show
from clf.config.rules import check
from clf.data import generated
from clf.data.index import data_faults


def compose(
    overrides: Sequence[str] = (), config_name: str = "train", config_dir: Path = CONFIG_DIR
) -> RunConfig:
    """The typed, checked configuration of a run; arguments as for `clf.config.compose.read`.

    Raises:
        ConfigError: with every fault, each with key, value and remedy
    """
    cfg, faults = examine(overrides, config_name, config_dir)
    if faults:
        raise ConfigError(faults)
    assert cfg is not None
    return cfg


def examine(
    overrides: Sequence[str] = (),
    config_name: str = "train",
    config_dir: Path = CONFIG_DIR,
    fill: Callable[[RunConfig], None] | None = None,
) -> tuple[RunConfig | None, list[str]]:
    """`compose` for those who look for further faults: the configuration, without what does not
    fit (None if there can be none), and all faults.

    Args:
        fill: sets what this machine decides, such as the number of devices, before the rules run
    """
    composed = read(overrides, config_name, config_dir)
    cfg, faults = composed.cfg, composed.faults
    if cfg is not None:
        if fill is not None:
            fill(cfg)
        faults += check(cfg)
        if composed.files_are_right:
            at_fault = {fault.split("=")[0] for fault in faults}
            faults += [fault for fault in class_faults(cfg) if fault.split("=")[0] not in at_fault]
    return cfg, list(one_a_key(faults))


def resolve(cfg: RunConfig, now: datetime | None = None) -> RunConfig:
    """Fill in (in place) what follows from the rest: name, absolute paths, number of classes."""
    if cfg.name is None:
        model = cfg.model._target_.rpartition(".")[2].removesuffix("Model").lower()
        cfg.name = f"{cfg.data.name}-{model}-{now or datetime.now():%Y%m%d-%H%M%S}"
    cfg.runs_dir = _absolute(cfg.runs_dir)
    if cfg.data.name in generated.DATASETS:
        # Here, not beside the snapshot that a job runs.
        cfg.data.root = str(generated.folder(cfg.data))
    if cfg.data.root is not None:
        cfg.data.root = _absolute(cfg.data.root)
    if cfg.model.weights is not None and Path(cfg.model.weights).expanduser().is_file():
        cfg.model.weights = _absolute(cfg.model.weights)
    if cfg.model.num_classes is None:
        names, _ = data_faults(cfg.data)
        cfg.model.num_classes = len(names) if names else None
    return cfg


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def one_a_key(faults: list[str]) -> Iterator[str]:
    """The first fault of each key: a wrong type would be reported again for its default."""
    seen: set[str] = set()
    for fault in faults:
        key = fault.split("=")[0].split(":")[0]
        if key not in seen or "=" not in fault.split(":")[0]:
            yield fault
        seen.add(key)


def class_faults(cfg: RunConfig) -> Iterator[str]:
    """What is wrong with the data, and what does not fit its classes."""
    model = cfg.model
    names, faults = data_faults(cfg.data)
    yield from faults
    count = model.num_classes
    if names is not None:
        if count is not None and count != len(names):
            some = ", ".join(names[:3] + (["..."] if len(names) > 3 else []))
            yield (
                f"model.num_classes={count}: the data has {len(names)} classes ({some}); "
                f"set model.num_classes={len(names)}, or null to take the data's"
            )
        count = len(names)
    if count is None:
        return
    if model.top_k is not None and model.top_k > count:
        yield (
            f"model.top_k={model.top_k}: there are only {count} classes; set "
            f"model.top_k={min(5, count)} or null"
        )
    if model.class_weights is not None and len(model.class_weights) != count:
        yield (
            f"model.class_weights={show(model.class_weights)}: has {len(model.class_weights)} "
            "numbers "
            f"for {count} classes; give one per class in label order, or null"
        )
