"""What is in a checkpoint beside what Lightning puts there, which callbacks save one, and how it is
read; `clf.resilience.saving` writes it.

A checkpoint holds plain types only, so `torch.load(weights_only=True)` reads it. Beside the weights
it holds the config and the class names, so it can be evaluated with nothing else at hand.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from clf.config import CheckpointConfig, RunConfig
from clf.metrics.measures import NOTHING, direction, logged_as
from clf.resilience.continuation import (
    adapt_counts,
    adapt_groups,
    adapt_schedules,
    length_of,
    recorded_length,
)
from clf.resilience.kept import BestCheckpoint, EveryEpochs
from clf.resilience.own import run_id
from clf.resilience.saving import LAST
from clf.resilience.whole import check_whole
from clf.run_folder import RunFolder

# Our entry in a checkpoint: the run's id, its config, class_to_idx, and what it was written with,
# the fields of `Length` (epochs, steps_per_epoch, accumulation)
RECORD = "clf"
FORMAT = 1  # of the entry; a newer version of clf may write a higher one


def checkpoint_callbacks(
    cfg: CheckpointConfig, folder: Path, declared: Mapping[str, str] = NOTHING
) -> list[Callback]:
    """The callbacks that save, in this order: `best.ckpt` by the monitored number, the checkpoints
    that are kept, and `last.ckpt` every epoch. `last.ckpt` comes last: until it is there, a run
    that was killed does the epoch again, and with it whatever was not saved.

    Best and last are two callbacks because one that has `monitor` rewrites its "last" only when it
    also saves a best one. A version counter would write `last-v1.ckpt` beside a stale `last.ckpt`.

    Args:
        declared: numbers that the model logs itself, each with what is best ("max" or "min")
    """
    monitor, mode = logged_as(cfg.monitor), direction(cfg.monitor, declared)
    best = BestCheckpoint(folder, monitor, mode, cfg.keep_top)
    every = [EveryEpochs(folder, cfg.every_epochs)] if cfg.every_epochs else []
    last = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, *every, last]


class RunRecord(Callback):
    """Adds the run's config, class names and length to each checkpoint, and lets the run go on with
    other settings (`clf.resilience.continuation`)."""

    def __init__(self, cfg: RunConfig, class_to_idx: dict[str, int], folder: RunFolder) -> None:
        self.cfg, self.class_to_idx, self.folder = cfg, class_to_idx, folder
        self._loaded: dict[str, Any] = {}  # the checkpoint that the fit goes on from

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        config = asdict(self.cfg)  # not earlier: the search sets data.micro_batch_size
        if config["data"]["origin"]:  # the node's copy of the data will be gone after the job
            config["data"] |= {"root": config["data"]["origin"], "origin": None}
        checkpoint[RECORD] = {
            "format": FORMAT,
            "run_id": run_id(self.folder),
            "config": config,
            "class_to_idx": self.class_to_idx,
            **length_of(trainer)._asdict(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit" and RECORD in checkpoint:  # an evaluation has no place in data
            self._loaded = checkpoint
            now = length_of(trainer)
            adapt_counts(checkpoint, recorded_length(checkpoint[RECORD], now), now)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded:
            record, now = self._loaded[RECORD], length_of(trainer)
            old = recorded_length(record, now)
            adapt_groups(trainer, self._loaded)
            # Of an unchanged run the saved state is what its schedules give, to the bit.
            if old[:2] != now[:2] or record["config"]["model"] != asdict(self.cfg.model):
                adapt_schedules(trainer, self._loaded, old, now)
            self._loaded = {}  # Lightning frees its memory too


def find_checkpoint(run_or_checkpoint: Path) -> Path:
    """The checkpoint file itself, or a run folder's best checkpoint, or its last one if there is no
    best one yet.

    Raises:
        ValueError: there is no such file, or it is damaged
    """
    folder = run_or_checkpoint / "checkpoints"
    for path in (run_or_checkpoint, folder / "best.ckpt", folder / LAST):
        if path.is_file():
            check_whole(path)
            return path
    raise ValueError(
        f"{run_or_checkpoint}: expected a checkpoint file, "
        "or a run folder that holds checkpoints/best.ckpt"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU; a tensor's numbers are read from the file when they are used.
    Whether they are those that were written, `check_whole` says.

    Raises:
        ValueError: another tool or a newer version has written it, it is damaged, or it holds
            objects that would run code when they are loaded
    """
    mmap = zipfile.is_zipfile(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UnpicklingError:
        if not mmap:
            what = "it is no file that torch.save writes"
            raise ValueError(f"{path} cannot be read as a checkpoint: {what}") from None
        raise ValueError(
            f"{path} was not read: it holds other things than tensors and plain values, and "
            "loading those could run code that somebody put there. A run of clf writes no such file"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or RECORD not in checkpoint:
        raise ValueError(f"{path} was not saved by a run of clf: it has no '{RECORD}' entry")
    if (found := checkpoint[RECORD].get("format", FORMAT)) > FORMAT:
        raise ValueError(
            f"{path} was written by a newer version of clf (format {found}, and this one reads up "
            f"to {FORMAT}): use that version"
        )
    return checkpoint
