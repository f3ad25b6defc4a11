"""What may change when a run goes on: `changes` compares the run's own configuration with the one
that is asked for now.

The table below holds every rule. A key that it does not name changes the mathematics of the
training, and is refused without `--allow-change`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from clf.config import ModelConfig, RunConfig
from clf.config.faults import show
from clf.config.registry import of_target
from clf.config.saved import flat
from clf.data.index import survey
from clf.run_folder import RunFolder, read_status

# Key, or the beginning of several -> what the change does. The first that fits counts.
FREE = {
    "epochs": "the learning rate follows the schedule of that many epochs from here on",
    "nodes": "the images of a step are spread over another number of ranks",
    "gpus": "the images of a step are spread over another number of ranks",
    "data.micro_batch_size": "a step computes the same images in other parts; BatchNorm sees that "
    "many at a time",
    "data.threads": "only the speed of reading images changes",
    "data.on_bad_image": "images that cannot be read stop the run, or are left out, from here on",
    "data.max_bad_fraction": "the run stops at another share of images that cannot be read",
    "data.prefetch": "only the speed of reading images changes",
    "data.stage": "the images are read from another place",
    "strategy.precision": "the steps from here on compute in this precision",
    "strategy.gradient_clip": "the gradients of the steps from here on are limited to this norm",
    "strategy.sync_batchnorm": "BatchNorm sees the images of other ranks from here on",
    "strategy.": "the work is spread over the devices in another way",
    "tracking.": "only what is recorded changes",
    "slurm.": "only what the next job asks of SLURM changes",
    "debug": "only how the run can be looked at changes",
    "on_bad_loss": "what a loss that is not finite does changes from here on",
    "checkpoint.keep_top": "another number of the best checkpoints stays from here on",
    "checkpoint.every_epochs": "other epochs' checkpoints are kept from here on",
    "checkpoint.every_steps": "last.ckpt is written after other steps from here on",
    "checkpoint.every_minutes": "last.ckpt is written at other times from here on",
    "checkpoint.keep_last": "another number of the last checkpoints stays from here on",
    "checkpoint.": "the best checkpoint is judged in another way from here on",
    "ema.": "the weights are averaged in another way from here on; the training is the same",
    "early_stopping.": "training may stop at another epoch",
    "callbacks": "other callbacks are called from here on",
    "trusted_packages": "classes of other packages may be used",
}
# Key -> why it can never change.
NEVER = {
    "model._target_": "the weights of the run belong to its own network",
    "model.num_classes": "the last layer of the run has an output for each of its own classes",
    "model.optimizer": "the run's checkpoint holds the state of its own optimizer",
    "model.layer_decay": "the run's checkpoint holds its weights in groups that follow from it",
    "model.head_lr_factor": "the run's checkpoint holds its weights in groups that follow from it",
    "model.interval": "the run's schedule is counted in its own steps or epochs",
    "model.class_weights": "the run's checkpoint holds its own class weights",
    "data.class_weights": "the run's checkpoint holds its own class weights",
    "data.effective_number_beta": "the run's checkpoint holds its own class weights",
    "model.weights": "the run goes on from its own checkpoint and would not read other weights",
    "model.weights_entry": "the run goes on from its own checkpoint and reads no other weights",
    "model.weights_head": "the run goes on from its own checkpoint and reads no other weights",
    "model.strict_weights": "the run goes on from its own checkpoint and reads no other weights",
    "model.pretrained": "the run goes on from its own checkpoint and would not read other weights",
}
# Key, or the beginning of several -> why it is refused without --allow-change.
ASK = {
    "seed": "the order of the images and their augmentation would be those of another run",
    "data.batch_size": "a step would see another number of images, and the epoch has other steps",
    "data.augment.": "the images would be changed in another way from here on",
    "mix.": "the images would be mixed in another way from here on",
    "data.": "the run would see other images than those it began with",
    "model.": "the training would go on with other mathematics",
    "": "the run would no longer be the one that its configuration describes",
}
# What a change of data.root does to a run that keeps the list of its images.
MOVED = "its own images are read from there; those that are gone or have another size are named"
PLACE = ("name", "runs_dir")  # where the folder is now, which says nothing of the run


@dataclass
class Changes:
    """What differs between a run and what is asked of it now."""

    lines: list[str] = field(default_factory=list)  # accepted; each says what it does
    faults: list[str] = field(default_factory=list)  # refused; each says why, and what to do
    more_epochs: bool = False  # so that a finished run has something left to do


def changes(run_dir: Path, saved: RunConfig, now: RunConfig, allow: bool = False) -> Changes:
    """Apply the rules to every key that differs.

    Args:
        saved, now: the run's own configuration, and the one that is asked for
        allow: accept what changes the mathematics too (`--allow-change`)
    """
    old, new = flat(saved), flat(now)
    outcome = Changes(more_epochs=now.epochs > saved.epochs)
    different = [key for key in new | old if old.get(key) != new.get(key) and key not in PLACE]
    if "model._target_" in different:  # its other parameters follow from it
        different = [key for key in different if not key.startswith("model.")] + ["model._target_"]
    for key in different:
        given, was = f"{key}={show(new.get(key))}", f"{key}={show(old.get(key))}"
        if key == "data.root" and RunFolder(run_dir).data_index.is_file():
            outcome.lines.append(f"{was} becomes {show(new.get(key))}: {MOVED}")
            continue
        reason = _never(run_dir, now, key)
        if reason is None and key.startswith(tuple(FREE)):
            outcome.lines.append(f"{was} becomes {show(new.get(key))}: {_first(FREE, key)}")
        elif reason is None and allow:
            outcome.lines.append(f"{was} becomes {show(new.get(key))} (--allow-change)")
        else:
            outcome.faults.append(
                f"{given}: the run {now.name} was begun with {was}; {reason or _first(ASK, key)}. "
                f"{_remedy(run_dir, was, reason is None)}"
            )
    if outcome.faults:
        outcome.faults[0] += f". `jobs.py resume {run_dir.name}` keeps all settings of the run"
    return outcome


def _never(run_dir: Path, now: RunConfig, key: str) -> str | None:
    """Why a key cannot change at all, or None."""
    if key == "epochs":
        done = (read_status(run_dir) or {}).get("epoch") or 0
        return f"{done} epochs are done already" if now.epochs < done else None
    if key in ("data.name", "data.root"):
        return next(_other_classes(run_dir, now), None)
    if key.removeprefix("model.") in _own_settings(now):
        return "its network was built with that, and the weights of the run belong to it"
    return NEVER.get(key)


def _own_settings(cfg: RunConfig) -> set[str]:
    """The settings that the class of the model adds to those of every model."""
    shared = {one.name for one in fields(ModelConfig)}
    model = of_target(cfg.model._target_)
    return set(model.settings if model is not None else ()) - shared


def _other_classes(run_dir: Path, now: RunConfig) -> Iterator[str]:
    """Why the data cannot take the place of the run's, if its classes are others."""
    try:
        mapping = RunFolder(run_dir).labels_mapping.read_text(encoding="utf-8")
    except FileNotFoundError:
        return  # the run has not begun: it has no classes yet
    names = survey(now.data).classes
    if names is not None and (other := set(names) ^ set(json.loads(mapping))):
        yield f"its classes are others than the run's; they differ in {sorted(other)[:10]}"


def _first(rules: dict[str, str], key: str) -> str:
    return next(text for start, text in rules.items() if key.startswith(start))


def _remedy(run_dir: Path, was: str, may_be_allowed: bool) -> str:
    ways = [f"Give {was} to go on with the run"]
    if may_be_allowed:
        ways.append("--allow-change to change it all the same")
    best = RunFolder(run_dir).best
    return (
        f"{', '.join(ways)}, or start a new run from its weights: model.weights={best} --name NEW"
    )
