"""Checkpoints that a kill at any instant leaves whole: written aside, synced to disk, renamed.

A checkpoint holds plain types only (`torch.load(weights_only=True)` reads it), and beside the
weights the config and the class names: it can be evaluated with nothing else at hand.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from clf.atomic import write_file
from clf.config import CheckpointConfig, RunConfig
from clf.metrics.measures import direction

RECORD = "clf"  # our entry in a checkpoint: {"config", "class_to_idx", "accumulation"}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target.

    Lightning's own class goes through TMPDIR, which may be another file system: there a full disk
    destroys the old file, and a permission error passes in silence (Lightning issue 21800).
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        write_file(Path(path), lambda temporary: torch.save(checkpoint, temporary))


def checkpoint_callbacks(cfg: CheckpointConfig, folder: Path) -> list[Callback]:
    """`best.ckpt` by the monitored number and `last.ckpt` of every epoch.

    Two callbacks, since one with `monitor` rewrites its "last" only when it also saves a best one;
    and no version counter, which would write `last-v1.ckpt` beside a stale `last.ckpt`.
    """
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=cfg.monitor,
        mode=direction(cfg.monitor),
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]


class RunRecord(Callback):
    """Adds the run's config and class names to each checkpoint, and lets a run go on with another
    number of devices or another micro-batch.

    Lightning counts the micro-batches of a rank, whose number changes then; we count steps.
    """

    def __init__(self, cfg: RunConfig, class_to_idx: dict[str, int]) -> None:
        self.cfg, self.class_to_idx = cfg, class_to_idx

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        config = asdict(self.cfg)  # now: data.micro_batch_size may have been found since
        if config["data"]["origin"]:  # a node's copy of the data is gone with the job
            config["data"] |= {"root": config["data"]["origin"], "origin": None}
        checkpoint[RECORD] = {
            "config": config,
            "class_to_idx": self.class_to_idx,
            "accumulation": trainer.accumulate_grad_batches,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        old = checkpoint.get(RECORD, {}).get("accumulation")
        if old and old != trainer.accumulate_grad_batches:
            count_again(checkpoint["loops"]["fit_loop"], old, trainer.accumulate_grad_batches)


def count_again(fit_loop: dict[str, Any], old: int, new: int) -> None:
    """Change in place the state of Lightning's fit loop, and in it of the loader, from `old`
    micro-batches a step to `new`.

    Raises:
        ValueError: the checkpoint was written between two micro-batches of a step
    """
    progress = fit_loop["epoch_loop.batch_progress"]
    counts = [(progress[part], key) for part in ("total", "current") for key in progress[part]]
    loaders = fit_loop["state_dict"].get("combined_loader", [])
    for place, key in counts + [(state, "batches") for state in loaders if "batches" in state]:
        if place[key] % old:
            raise ValueError(
                "the checkpoint was written within an optimizer step, after "
                f"{place[key]} micro-batches of which {old} make a step: it can go on only with as "
                "many devices and the same data.micro_batch_size as before"
            )
        place[key] = place[key] // old * new


def find_checkpoint(run_or_checkpoint: Path) -> Path:
    """A checkpoint file itself, or a run folder's best one (its last, if there is no best yet).

    Raises:
        ValueError: neither
    """
    if run_or_checkpoint.is_file():
        return run_or_checkpoint
    folder = run_or_checkpoint / "checkpoints"
    for name in ("best.ckpt", "last.ckpt"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"{run_or_checkpoint}: expected a checkpoint file, "
        "or a run folder that holds checkpoints/best.ckpt"
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours on the CPU; ValueError if it is another tool's, or damaged."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from error
    if RECORD not in checkpoint:
        raise ValueError(f"{path} was not saved by a run of clf: it has no '{RECORD}' entry")
    return checkpoint
