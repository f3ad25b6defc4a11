"""The rules that a configuration must meet: limits of single values, and values that fit together.

`check(cfg)` gives every fault as a line "key=value: what is wrong; what to do". `compose` adds
those of spelling and type, and raises them all together. Imports no torch.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from clf.config.build import targets_in
from clf.config.device_rules import DEVICE_RULES
from clf.config.faults import nearest, show
from clf.config.job_rules import JOB_RULES
from clf.config.network_rules import NETWORK_RULES
from clf.config.node_range import node_notes
from clf.config.optimizer_rules import OPTIMIZER_RULES, optimizer_notes, schedule_notes
from clf.config.registry import logged_by
from clf.config.schema import AugmentConfig, MixConfig, RunConfig
from clf.config.targets import target_fault
from clf.config.values import limit_faults
from clf.config.weight_entries import file_fault
from clf.config.weight_files import FILE_ENDINGS
from clf.config.weights import is_file
from clf.metrics.declared import declaration_fault
from clf.metrics.measures import AS_TRAINED, TOP_K, direction, listed, monitors, reported

BCE = "binary_cross_entropy"
NAME_REMEDY = "use letters, digits, '.', '_' and '-' only, beginning with a letter or digit"


def check(cfg: RunConfig, fill: Callable[[RunConfig], None] = lambda cfg: None) -> list[str]:
    """Every fault of a configuration whose keys and types are right; [] if there is none.

    Args:
        fill: sets what must be known before the rules apply, such as the number of devices; called
            where all values are within their limits
    """
    faults = list(limit_faults(cfg))
    if not faults:
        fill(cfg)
    at_fault = {fault.split("=")[0] for fault in faults}
    looks = [
        _name,
        _targets,
        _descriptions,
        *DEVICE_RULES,
        _ranges,
        _background,
        _group_by,
        _model,
        *NETWORK_RULES,
        *OPTIMIZER_RULES,
        _loss,
        _ema,
        _monitor,
        *JOB_RULES,
    ]
    for look in looks:
        # One fault a key: its limit says it best.
        faults += [fault for fault in look(cfg) if fault.split("=")[0] not in at_fault]
    return faults


def _name(cfg: RunConfig) -> Iterator[str]:
    if cfg.name is None:
        return
    plain = cfg.name.replace(".", "").replace("_", "").replace("-", "")
    if not (plain.isascii() and plain.isalnum() and cfg.name[0].isalnum() and len(cfg.name) <= 128):
        yield f"name={cfg.name}: cannot be the name of a run folder; {NAME_REMEDY}, at most 128"


def _targets(cfg: RunConfig) -> Iterator[str]:
    for key, target in targets_in(cfg):
        if (fault := target_fault(target, cfg.trusted_packages)) is not None:
            yield f"{key}={target}: {fault}"


def _descriptions(cfg: RunConfig) -> Iterator[str]:
    lists = {"callbacks": cfg.callbacks, "data.augment.transforms": cfg.data.augment.transforms}
    for key, descriptions in lists.items():
        for place, described in enumerate(descriptions):
            if "_target_" not in described:
                yield (
                    f"{key}.{place}={show(described)}: does not say which class to build; write "
                    "{_target_: package.module.ClassName, argument: value}"
                )


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
            is_swapped = len(pair) == 2 and low < pair[1] <= pair[0] <= high
            example = sorted(pair) if is_swapped else getattr(AugmentConfig(), name)
            yield (
                f"data.augment.{name}={show(pair)}: expected two numbers [low,high], low "
                f"first{top}; such as data.augment.{name}={show(example)}"
            )
    data = cfg.data
    if data.val_fraction + data.test_fraction >= 1:
        yield (
            f"data.val_fraction={data.val_fraction}: with data.test_fraction={data.test_fraction} "
            "nothing is left to "
            "train on; their sum must be below 1"
        )
    if data.start_size is not None and data.start_size > data.size:
        yield (
            f"data.start_size={data.start_size}: larger than data.image_size={data.size}, to "
            "which the images grow; set a smaller one, or null"
        )
    crop, name = data.size_in_evaluation, "eval_size" if data.eval_size else "image_size"
    if data.eval_resize is not None and data.eval_resize < crop:
        yield (
            f"data.eval_resize={data.eval_resize}: smaller than the centre crop "
            f"data.{name}={crop}; "
            f"set data.eval_resize={crop} or more, or null"
        )


def _background(cfg: RunConfig) -> Iterator[str]:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(cfg.data.background)
    except ValueError:
        yield (
            f"data.background={show(cfg.data.background)}: is no colour; give a name of CSS, such "
            "as data.background=white, or red, green and blue, such as "
            "'data.background=\"#7c7468\"'"
        )


def _group_by(cfg: RunConfig) -> Iterator[str]:
    group_by = cfg.data.group_by
    if group_by is None or group_by == "folder":
        return
    kind, _, text = group_by.partition(":")
    if kind not in ("regex", "column") or not text:
        yield (
            f"data.group_by={group_by}: expected folder, regex:PATTERN such as regex:match\\d+, "
            "column:KEY such as column:player, or null"
        )
    elif kind == "regex":
        try:
            re.compile(text)
        except re.error as error:
            yield (
                f"data.group_by={group_by}: {text} is no regular expression ({error}); "
                "write one such as regex:match\\d+"
            )


def _model(cfg: RunConfig) -> Iterator[str]:
    model = cfg.model
    weights = model.weights
    if weights is not None and is_file(weights):
        path = Path(weights).expanduser()
        if path.is_dir():
            inside = [
                one
                for one in sorted([*path.glob("*"), *path.glob("*/*")])
                if one.name.endswith(FILE_ENDINGS)
            ]
            known = f", such as model.weights={inside[0]}" if inside else ""
            yield f"model.weights={weights}: is a folder; give the file of weights in it{known}"
        elif not path.is_file():
            also = " (it goes before model.pretrained=true)" if model.pretrained else ""
            yield (
                f"model.weights={weights}: no such file{also}; looked for {path.absolute()}. Give "
                "the path of a "
                f"{'/'.join(FILE_ENDINGS)} file, a weights name such as IMAGENET1K_V1, or "
                "null"
            )
        elif fault := file_fault(model):
            yield fault
    if model.weights_head and not is_file(weights):
        yield (
            "model.weights_head=true: takes the head of a file, by the names of its classes; give "
            "a run's checkpoint as model.weights=/path/to/best.ckpt, or set "
            "model.weights_head=false"
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
                "one per class in label order, or null"
            )


def _loss(cfg: RunConfig) -> Iterator[str]:
    if cfg.model.loss == BCE and vars(cfg.model)["bce_threshold"] == 1:
        yield (
            "model.bce_threshold=1.0: no class has a share above 1 of a mixed image, so all of its "
            "targets would be 0; set a number below 1 such as 0.2, or null"
        )


def notes(cfg: RunConfig) -> Iterator[str]:
    """What may be meant as it is, but is more often an oversight."""
    yield from optimizer_notes(cfg)
    yield from schedule_notes(cfg)
    yield from _mix_notes(cfg)
    yield from node_notes(cfg)
    if not is_file(cfg.model.weights):
        for key, usual in (("weights_entry", None), ("strict_weights", True)):
            if (value := getattr(cfg.model, key)) != usual:
                yield f"model.{key}={show(value)}: has no effect without a file as model.weights"
    if cfg.model.loss == "logit_adjustment":
        also = []
        if cfg.data.sampler == "class_balanced":
            also.append("data.sampler=class_balanced")
        if cfg.data.class_weights != "none":
            also.append(f"data.class_weights={cfg.data.class_weights}")
        for other in also:
            yield f"model.loss=logit_adjustment: corrects for rare classes, and so does {other}"


def _mix_notes(cfg: RunConfig) -> Iterator[str]:
    mix, default = cfg.mix, MixConfig()
    threshold = vars(cfg.model)["bce_threshold"] if cfg.model.loss == BCE else None
    if mix.mixup or mix.cutmix:
        if mix.off_epochs >= cfg.epochs:
            yield f"mix.off_epochs={mix.off_epochs}: none of epochs={cfg.epochs} is mixed"
        if threshold is not None and threshold >= 0.5:
            yield (
                f"model.bce_threshold={threshold}: where neither class of a mixed image has a "
                "share above it, all targets are 0"
            )
        return
    changed = {f"mix.{key}": one for key, one in vars(mix).items() if one != getattr(default, key)}
    if threshold is not None:
        changed["model.bce_threshold"] = threshold
    for key, value in changed.items():
        yield f"{key}={value}: has no effect without mix.mixup or mix.cutmix above 0"


def _ema(cfg: RunConfig) -> Iterator[str]:
    if cfg.ema.decay == 1:
        yield (
            "ema.decay=1.0: the average would keep the first weights for ever; use a number "
            "below 1 such as 0.999, or null for no average"
        )


def _monitor(cfg: RunConfig) -> Iterator[str]:
    yield from monitor_faults(cfg, cfg.model.num_classes)


def monitor_faults(cfg: RunConfig, num_classes: int | None) -> Iterator[str]:
    """What is wrong with `checkpoint`, for that many classes (None: not known yet)."""
    monitor, mode = cfg.checkpoint.monitor, cfg.checkpoint.mode
    known = reported(cfg.model.top_k or TOP_K, num_classes)
    declared = logged_by(cfg.model._target_)
    if fault := declaration_fault(declared):
        yield f"model._target_={cfg.model._target_}: its `logs`: {fault}"
        return
    names = [*monitors(known), *declared]
    if monitor.startswith(f"{AS_TRAINED}/"):
        why = "judges the weights as trained, and best.ckpt holds their average"
        if cfg.ema.decay is None:
            why = "is of the weights beside their average, and ema.decay=null averages nothing"
        instead = monitor.replace(AS_TRAINED, "val", 1)
        yield f"checkpoint.monitor={monitor}: {why}; set checkpoint.monitor={instead}"
    elif monitor not in names:
        guess = nearest(monitor if "/" in monitor else f"val/{monitor}", names)
        yield (
            f"checkpoint.monitor={monitor}: no such name is logged; expected "
            + listed(known, declared)
            + (f"; did you mean {guess[0]}?" if guess else "")
        )
    elif mode not in (None, best := direction(monitor, declared)):
        yield (
            f"checkpoint.mode={mode}: {monitor} is best at its {best}imum; leave it out, or set "
            f"checkpoint.mode={best}"
        )
