"""What a configuration may not be: limits of single values, and values that do not go together.

`check(cfg)` gives every fault as a line "key=value: what is wrong; what to do". `clf.compose` adds
those of spelling and type, and raises them all together. Imports no torch.
"""

import difflib
import math
import re
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.registry import target_fault

WEIGHT_FILE_ENDINGS = (".pth", ".pt", ".ckpt")
SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSW")
NAME_REMEDY = "use letters, digits, '.', '_' and '-' only, beginning with a letter or digit"


class ConfigError(ValueError):
    """All faults of a configuration, one a line; `faults` holds them singly."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(dict.fromkeys(faults))
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = (fault.replace("\n", "\n  ") for fault in self.faults)
        super().__init__(
            f"{count} in the configuration:\n" + "\n".join(f"- {line}" for line in lines)
        )


def show(value: Any) -> str:
    """A value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{show(item)}" for key, item in value.items()) + "}"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))


def nearest(word: str, valid: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names most like `word`, upper and lower case alike; of equals, the one that comes
    first."""
    likeness = {
        name: difflib.SequenceMatcher(None, name.lower(), word.lower()).ratio() for name in valid
    }
    close = [name for name in likeness if likeness[name] >= cutoff]
    return sorted(close, key=lambda name: -likeness[name])[:count]


def is_for_the_user(error: BaseException) -> bool:
    """Whether one of our own checks raised it, so that its message alone says what to do."""
    if isinstance(error, ConfigError):
        return True
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    frame = traceback.extract_tb(error.__traceback__)[-1]
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    module = str(last.tb_frame.f_globals.get("__name__", ""))
    return module.startswith(("clf.", "slurm.")) and (frame.line or "").startswith("raise")


def check(cfg: RunConfig, look_at_data: bool = True) -> list[str]:
    """Every fault of a configuration whose keys and types are right; [] if there is none.

    Args:
        look_at_data: also look at the data's folder and classes
    """
    from clf.check_job import JOB_CHECKS  # which shows values as this file does
    from clf.check_strategy import batches, devices, strategy  # they use this module

    faults = limit_faults(cfg)
    at_fault = {fault.split("=")[0] for fault in faults}
    looks = [_name, _targets, devices, strategy, batches, _ranges, _model, _schedule, _monitor]
    looks += JOB_CHECKS
    for look in [*looks, _data_and_classes] if look_at_data else looks:
        # One fault a key: its limit says it best.
        faults += [fault for fault in look(cfg) if fault.split("=")[0] not in at_fault]
    return faults


def limit_faults(node: Any, prefix: str = "") -> list[str]:
    """What breaks the `choices`, `low` and `high` in the metadata of a dataclass's fields."""
    faults: list[str] = []
    for entry in fields(node):
        value, key = getattr(node, entry.name), f"{prefix}{entry.name}"
        if is_dataclass(value):
            faults += limit_faults(value, f"{key}.")
        elif (fault := _limit_fault(entry, value)) is not None:
            faults.append(f"{key}={show(value)}: {fault}")
    return faults


def limits(entry: Field[Any]) -> str:
    """The limits of a field in words, such as " of at least 1"; empty where there are none."""
    low, high = entry.metadata.get("low"), entry.metadata.get("high")
    if low is None:
        return ""
    return f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"


def _limit_fault(entry: Field[Any], value: Any) -> str | None:
    choices, low = entry.metadata.get("choices"), entry.metadata.get("low")
    if choices and value not in choices:
        guess = nearest(str(value), choices)
        return f"expected one of {', '.join(choices)}" + (
            f"; did you mean {guess[0]}?" if guess else ""
        )
    if any(not text.isprintable() for text in _texts(value)):
        # a newline would become a line of a job script
        return "holds a line break or control character; take it out"
    pattern = entry.metadata.get("pattern")
    if pattern and value is not None and not re.fullmatch(pattern, value, re.ASCII):
        return (
            "holds a character that has no place here, or nothing; expected something like "
            f"{entry.name}={entry.metadata['example']}"
        )
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            return "expected a finite number"
        if low is not None and number is not None and not low <= number <= entry.metadata["high"]:
            return f"expected a number{limits(entry)}"
    return None


def _texts(value: Any) -> list[str]:
    """The texts in a value, those of a list and of a dictionary included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for text in pair if isinstance(text, str)]
    return [
        text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
    ]


def _name(cfg: RunConfig) -> Iterator[str]:
    if cfg.name is None:
        return
    plain = cfg.name.replace(".", "").replace("_", "").replace("-", "")
    if not (plain.isascii() and plain.isalnum() and cfg.name[0].isalnum() and len(cfg.name) <= 128):
        yield f"name={cfg.name}: cannot be the name of a run folder; {NAME_REMEDY}, at most 128"


def _targets(cfg: RunConfig) -> Iterator[str]:
    def walk(key: str, value: Any) -> Iterator[tuple[str, str]]:
        if is_dataclass(value):
            value = vars(value)
        if isinstance(value, dict):
            for name, item in value.items():
                if name == "_target_":
                    yield f"{key}._target_", str(item)
                else:
                    yield from walk(f"{key}.{name}", item)
        elif isinstance(value, list):
            for place, item in enumerate(value):
                yield from walk(f"{key}.{place}", item)

    for key, target in walk("model", cfg.model):
        if (fault := target_fault(target, cfg.trusted_packages)) is not None:
            yield f"{key}={target}: {fault}"


def _ranges(cfg: RunConfig) -> Iterator[str]:
    augment = cfg.data.augment
    for name, low, high in (
        ("crop_scale", 0.0, 1.0),
        ("crop_ratio", 0.0, math.inf),
        ("jpeg_quality", 0, 100),
    ):
        pair = getattr(augment, name)
        if len(pair) != 2 or not low < pair[0] <= pair[1] <= high:
            top = f", both above {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
            example = (
                ",".join(show(number) for number in sorted(pair)) if len(pair) == 2 else "low,high"
            )
            yield (
                f"data.augment.{name}={show(pair)}: expected two numbers [low,high], low "
                f"first{top}; "
                f"such as data.augment.{name}=[{example}]"
            )
    data = cfg.data
    if data.val_fraction + data.test_fraction >= 1:
        yield (
            f"data.val_fraction={data.val_fraction}: with data.test_fraction={data.test_fraction} "
            "nothing is left to "
            "train on; their sum must be below 1"
        )
    if data.eval_resize is not None and data.eval_resize < data.image_size:
        yield (
            f"data.eval_resize={data.eval_resize}: smaller than the centre crop "
            f"data.image_size={data.image_size}; "
            f"set data.eval_resize={data.image_size} or more, or null"
        )


def _model(cfg: RunConfig) -> Iterator[str]:
    model = cfg.model
    weights = model.weights
    if weights is not None and (weights.endswith(WEIGHT_FILE_ENDINGS) or "/" in weights):
        path = Path(weights).expanduser()
        if not path.is_file():
            also = " (it goes before model.pretrained=true)" if model.pretrained else ""
            yield (
                f"model.weights={weights}: no such file{also}; looked for {path.absolute()}. Give "
                "the path of a "
                f"{'/'.join(WEIGHT_FILE_ENDINGS)} file, a weights name such as IMAGENET1K_V1, or "
                "null"
            )
        elif path.suffix not in WEIGHT_FILE_ENDINGS:
            yield (
                f"model.weights={weights}: expected a file that ends in "
                f"{', '.join(WEIGHT_FILE_ENDINGS)}"
            )
    if model.class_weights is not None:
        if cfg.data.class_weights != "none":
            yield (
                f"model.class_weights={show(model.class_weights)}: "
                f"data.class_weights={cfg.data.class_weights} would "
                "overwrite it; set one of them: model.class_weights=null or data.class_weights=none"
            )
        elif min(model.class_weights, default=0) < 0 or not any(model.class_weights):
            yield (
                f"model.class_weights={show(model.class_weights)}: expected numbers of at least "
                "0, not all 0, "
                "one per class in label order"
            )


def _schedule(cfg: RunConfig) -> Iterator[str]:
    warmup = cfg.model.warmup_epochs
    if warmup >= cfg.epochs and warmup > 0:
        yield (
            f"model.warmup_epochs={warmup}: the warm-up would fill all of epochs={cfg.epochs}; "
            f"set model.warmup_epochs={cfg.epochs - 1} or less, or more epochs"
        )


def _monitor(cfg: RunConfig) -> Iterator[str]:
    monitor, mode = cfg.checkpoint.monitor, cfg.checkpoint.mode
    measures = ("acc_top1", f"acc_top{cfg.model.top_k or 5}", "acc_macro", "loss")
    names = [f"{stage}/{measure}" for stage in ("val", "train") for measure in measures]
    if monitor not in names:
        guess = nearest(monitor, names)
        yield (
            f"checkpoint.monitor={monitor}: no such name is logged; expected one of "
            f"{', '.join(names)}" + (f"; did you mean {guess[0]}?" if guess else "")
        )
        return
    better = "min" if monitor.endswith("loss") else "max"
    if mode != better:
        yield (
            f"checkpoint.mode={mode}: {monitor} is best at its {better}imum; set "
            f"checkpoint.mode={better}"
        )


def _data_and_classes(cfg: RunConfig) -> Iterator[str]:
    from clf.data.datasets import data_faults

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
