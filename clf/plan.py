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
from clf.config.compose import CONFIG_DIR, Composed, read
from clf.config.faults import Findings, one_a_key, show
from clf.config.node_range import fixed_micro_batch, is_elastic, most_nodes
from clf.config.registry import AUTO, node_schema, owner
from clf.config.rules import check, monitor_faults, notes
from clf.config.weight_entries import file_fault
from clf.config.weights import fill as fill_from_weights
from clf.data.generated import folder, is_generated
from clf.data.index import Survey, survey
from clf.data.reader import DataError
from clf.data.recognise import data_settings_of
from clf.run_folder import RunFolder

FEW = 4  # images of a forward pass


def compose(
    overrides: Sequence[str] = (), config_name: str = "train", config_dir: Path = CONFIG_DIR
) -> RunConfig:
    """The typed, checked configuration of a run; arguments as for `clf.config.compose.read`.

    Raises:
        ConfigError: with every fault, each with key, value and remedy
    """
    examined = examine(overrides, config_name, config_dir)
    if examined.faults:
        raise ConfigError(examined.faults)
    assert examined.cfg is not None
    return examined.cfg


def examine(
    overrides: Sequence[str] = (),
    config_name: str = "train",
    config_dir: Path = CONFIG_DIR,
    fill: Callable[[RunConfig], None] = lambda cfg: None,
    refresh: bool = False,
) -> Composed:
    """`compose` for those who look for further faults: the configuration without what does not
    fit (None if there can be none), all faults, and notes.

    Args:
        fill: as for `clf.config.rules.check`
        refresh: look at the data as they are now, though a run of that name has its list of them
    """
    composed = read(overrides, config_name, config_dir)
    cfg = composed.cfg
    if cfg is not None:
        if cfg.data.name == AUTO and (unknown := _recognise(cfg)):
            composed.faults += unknown
            composed.files_are_right = False
        fill_from_weights(cfg)
        faults = check(cfg, fill)
        if composed.files_are_right:
            at_fault = {fault.split("=")[0] for fault in composed.faults + faults}
            of_data = class_findings(cfg, refresh)
            faults += [one for one in of_data.faults if one.split("=")[0] not in at_fault]
            composed.notes += of_data.notes
        composed.faults = one_a_key(composed.faults + faults)
        composed.notes += [*notes(cfg), *_weight_notes(cfg)]
    return composed


def _recognise(cfg: RunConfig) -> list[str]:
    """Replace (in place) data.name=auto by the reader of what `data.root` holds; the faults."""
    root, cfg.data.name = cfg.data.root, "imagefolder"
    if root is None:
        return ["data.root: null, but data.name=auto looks at what is there; set data.root=FOLDER"]
    try:
        found = data_settings_of(Path(root))
    except DataError as error:
        return error.faults
    given = vars(cfg.data) | found
    schema = node_schema("data", found)
    known = vars(schema())
    cfg.data = schema(**{name: value for name, value in given.items() if name in known})
    return [
        f"data.{name}={show(value)}: is a setting of {owner('data', name)}, and what is in {root} "
        f"is read as data={found['name']}; leave it out, or give the reader with data.root={root}"
        for name, value in given.items()
        if name not in known and value is not None
    ]


def resolve(cfg: RunConfig, now: datetime | None = None, refresh: bool = False) -> RunConfig:
    """Fill in (in place) what follows from the rest: name, absolute paths, number of classes, and
    the micro-batch of a run whose number of nodes may change. `refresh`: as for `examine`."""
    if cfg.name is None:
        model = cfg.model._target_.rpartition(".")[2].removesuffix("Model").lower()
        cfg.name = f"{cfg.data.name}-{model}-{now or datetime.now():%Y%m%d-%H%M%S}"
    cfg.runs_dir = _absolute(cfg.runs_dir)
    if is_generated(cfg.data):
        # In this checkout, not beside the snapshot that a job runs.
        cfg.data.root = str(folder(cfg.data))
    if cfg.data.root is not None:
        cfg.data.root = _absolute(cfg.data.root)
    if cfg.data.exclude is not None:
        cfg.data.exclude = _absolute(cfg.data.exclude)
    if cfg.model.weights is not None and Path(cfg.model.weights).expanduser().is_file():
        cfg.model.weights = _absolute(cfg.model.weights)
    if is_elastic(cfg) and cfg.gpus is not None and cfg.data.micro_batch_size is None:
        cfg.data.micro_batch_size = fixed_micro_batch(cfg)
    if cfg.model.num_classes is None:
        names = _survey(cfg, refresh).classes
        cfg.model.num_classes = len(names) if names else None
    return cfg


def images_per_forward_pass(cfg: RunConfig) -> int | None:
    """Training images in one forward pass of a rank: the micro-batch.

    None where it is not known yet: `data.micro_batch_size=auto` finds it when the job starts, and
    without `gpus` the number of ranks is open.
    """
    if cfg.data.micro_batch_size == "auto":
        return None
    if cfg.data.micro_batch_size is not None:
        return cfg.data.micro_batch_size
    return None if cfg.gpus is None else cfg.data.batch_size // (most_nodes(cfg) * cfg.gpus)


def images_per_batchnorm(cfg: RunConfig) -> int | None:
    """Training images over which a BatchNorm layer normalises at a time: those of a rank's forward
    pass, or of all ranks' with `strategy.sync_batchnorm`. None where it is not known yet.

    Unless `data.micro_batch_size` is set this number changes with the devices, and with it the
    training of a network that has BatchNorm.
    """
    images = images_per_forward_pass(cfg)
    if images is None or not cfg.strategy.sync_batchnorm:
        return images
    return None if cfg.gpus is None or is_elastic(cfg) else images * most_nodes(cfg) * cfg.gpus


def _weight_notes(cfg: RunConfig) -> Iterator[str]:
    """Class weights that cancel: the loss of a micro-batch is divided by the sum of its weights."""
    given, own = cfg.data.class_weights, cfg.model.class_weights
    weighs = f"data.class_weights={given}" if given != "none" else None
    if weighs is None and own is not None and len(set(own)) > 1:
        weighs = f"model.class_weights={show(own)}"
    images = images_per_forward_pass(cfg)
    if weighs is None or images is None or images > FEW:
        return
    effect = "have no effect" if images == 1 else "mostly cancel"
    of = "1 image" if images == 1 else f"{images} images"
    yield (
        f"{weighs}: the weights {effect} in a forward pass of {of}, whose loss is divided by their "
        "sum; set data.micro_batch_size to 16 or more, or use data.sampler=class_balanced"
    )


def _survey(cfg: RunConfig, refresh: bool, contents: bool = False) -> Survey:
    """What there is to say of the data, or of the run's list of them, with which it goes on."""
    kept = RunFolder(Path(cfg.runs_dir, cfg.name)).data_index if cfg.name else None
    if kept is not None and not refresh and kept.is_file():
        from clf.data.kept_index import known_survey  # imports NumPy

        if (known := known_survey(kept, cfg.data, files=contents)) is not None:
            return known
    return survey(cfg.data, contents)


def class_findings(cfg: RunConfig, refresh: bool = False) -> Findings:
    """What is wrong with the data, what does not fit its classes, and the notes of its reader.
    `refresh`: as for `examine`."""
    names, faults, notes = _survey(cfg, refresh, contents=True)
    return Findings([*faults, *_class_faults(cfg, names)], list(notes))


def _class_faults(cfg: RunConfig, names: list[str] | None) -> Iterator[str]:
    model = cfg.model
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
    if model.num_classes is None:  # else `check` has looked
        yield from monitor_faults(cfg, count)
    if model.top_k is not None and model.top_k > count:
        yield (
            f"model.top_k={model.top_k}: there are only {count} classes; set "
            f"model.top_k={min(5, count)} or null"
        )
    is_there = Path(model.weights or "").expanduser().is_file()
    if model.weights_head and is_there and names is not None:
        yield from filter(None, [file_fault(model, names)])
    if model.class_weights is not None and len(model.class_weights) != count:
        yield (
            f"model.class_weights={show(model.class_weights)}: has {len(model.class_weights)} "
            f"numbers for {count} classes; give one per class in label order, or null"
        )


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
