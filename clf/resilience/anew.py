"""A run that begins anew with the data as they are now (--refresh-data): what it has written goes
to RUN/before-<number>, a run folder of its own, and the training starts from its weights.

    set_aside(folder)  # where the command is typed
    cfg = from_its_weights(cfg, folder, resume, classes)  # in each start
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clf.atomic import link_file
from clf.config import RunConfig
from clf.resilience.whole import check_whole, first_whole
from clf.run_folder import RunFolder

BEFORE = r"before-(\d+)"
STAYS = ("start.ckpt", "lease.json", ".lease.json.")  # names, or how they begin
COPIED = ("config.yaml", "code", "commit.json")  # which the run still needs


def weights_of(folder: RunFolder) -> Path | None:
    """The best checkpoint that is whole; None if the run has none yet.

    Raises:
        ValueError: all of them are damaged
    """
    path, damaged = first_whole([folder.best, folder.last, *folder.replaced])
    if path is None and damaged:
        raise ValueError(damaged[0])
    return path


def next_place(folder: RunFolder) -> Path:
    """Where `set_aside` puts what the run has written."""
    found = (re.fullmatch(BEFORE, entry.name) for entry in folder.path.iterdir())
    return folder.path / f"before-{max((int(one[1]) for one in found if one), default=0) + 1}"


def set_aside(folder: RunFolder) -> None:
    """Move all that the run has written, but for its code and its config, to a folder of its own.
    If it is killed within, it goes on when it is called again."""
    target = next_place(folder)
    unfinished = target.with_name(f".{target.name}")
    if (weights := weights_of(folder)) is not None:
        link_file(weights, folder.start)
    elif not unfinished.exists():
        folder.start.unlink(missing_ok=True)
    unfinished.mkdir(exist_ok=True, mode=0o700)
    for name in COPIED:
        source = folder.path / name
        if source.is_dir():
            shutil.copytree(source, unfinished / name, symlinks=True, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, unfinished / name)
    for entry in sorted(folder.path.iterdir()):
        stays = entry == unfinished or entry.name in COPIED or entry.name.startswith(STAYS)
        if not stays and not re.fullmatch(BEFORE, entry.name):
            entry.rename(unfinished / entry.name)
    unfinished.rename(target)
    RunFolder.create(folder.path)


def from_its_weights(
    cfg: RunConfig, folder: RunFolder, resume: Path | None, classes: Sequence[str]
) -> RunConfig:
    """The config with the weights that `set_aside` has left, for a run without a checkpoint.
    Those of the last layer are taken too if they are for all of the classes."""
    if resume is not None or not folder.start.exists():
        return cfg
    from clf.resilience.checkpoint import RECORD, read_checkpoint  # imports torch

    check_whole(folder.start)
    known = read_checkpoint(folder.start)[RECORD]["class_to_idx"]
    head = set(classes) <= set(known)
    weights = replace(cfg.model, weights=str(folder.start), weights_entry=None, weights_head=head)
    return replace(cfg, model=weights)
