"""Checkpoints that stay: the best ones (`checkpoint.keep_top`) and those of every N epochs
(`checkpoint.every_epochs`).

A kill at any instant loses none and leaves none twice. Names follow from the epoch, so what is
saved again replaces itself; and a file is deleted only once `last.ckpt` knows that it is not
needed.
"""

import math
import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from clf.metrics.declared import check_logged
from clf.resilience.saving import BEST, AtomicCheckpointIO


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt`, and with `keep` above 1 `top-epoch<NNN>.ckpt` of each of the `keep` best epochs.

    `best.ckpt` and the first of them are two names of one file, where the file system has hard
    links. The other files are deleted when the next epoch starts.

    Args:
        monitor: the number that judges, as it is logged
        mode: "max" or "min"
        keep: how many stay
    """

    def __init__(self, folder: Path, monitor: str, mode: str, keep: int = 1) -> None:
        super().__init__(
            folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False
        )
        self.folder, self.keep = folder, keep
        self.scores: dict[int, float] = {}  # epoch, from 1 -> value; of those that stay
        self.best_epoch: int | None = None

    @property
    def state_key(self) -> str:
        # Lightning's own, so that a run of an older version goes on with its best value.
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"scores": self.scores, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets its best value, and so replaces `best.ckpt` by a worse one, where the
        # run's folder has been moved.
        def here(path: str) -> str:
            return path and os.path.join(self.dirpath or "", os.path.basename(path))

        moved: dict[str, Any] = {
            key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")
        }
        best = {here(path): value for path, value in state_dict["best_k_models"].items()}
        moved |= {"dirpath": self.dirpath, "best_k_models": best}
        super().load_state_dict(state_dict | moved)
        self.scores = dict(state_dict.get("scores", {}))
        self.best_epoch = state_dict.get("best_epoch")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        if self.best_epoch is not None and (kept := self._path(self.best_epoch)).is_file():
            _writer(trainer).link(kept, self.folder / BEST)  # a killed epoch may have replaced it
        self._delete_others(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._delete_others(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._delete_others(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.monitor
        check_logged(self.monitor, trainer.callback_metrics)
        before = self.best_model_score
        super().on_train_epoch_end(trainer, pl_module)
        is_best = self.best_model_score is not before
        if is_best:
            self.best_epoch = trainer.current_epoch + 1
        if self.keep > 1:
            self._keep(trainer, is_best)
        else:
            self.scores = {}

    def _keep(self, trainer: Trainer, is_best: bool) -> None:
        """Save this epoch if it is among the best; `scores` becomes what stays."""
        assert self.monitor
        epoch = trainer.current_epoch + 1
        # A number that a model declares may differ between ranks: rank 0's decides.
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        sign = -1 if self.mode == "max" else 1
        scores = {**self.scores, epoch: score}

        def place(epoch: int) -> tuple[bool, float, int]:
            value = scores[epoch]
            return epoch != self.best_epoch, math.inf if math.isnan(value) else sign * value, epoch

        kept = sorted(scores, key=place)[: self.keep]
        self.scores = {one: scores[one] for one in kept}
        if is_best:
            if trainer.is_global_zero:
                _writer(trainer).link(self.folder / BEST, self._path(epoch))
        elif epoch in self.scores:
            trainer.save_checkpoint(self._path(epoch))

    def _path(self, epoch: int) -> Path:
        return self.folder / f"top-epoch{epoch:03d}.ckpt"

    def _delete_others(self, trainer: Trainer) -> None:
        """What is not among the best any more, once `last.ckpt` of the last epoch is there."""
        if not trainer.is_global_zero:
            return
        kept = {self._path(epoch) for epoch in self.scores}
        _writer(trainer).delete(self.folder, "top-epoch*.ckpt", kept)


def _writer(trainer: Trainer) -> AtomicCheckpointIO:
    """What writes the run's checkpoints, one after another."""
    writer = trainer.strategy.checkpoint_io
    return writer if isinstance(writer, AtomicCheckpointIO) else AtomicCheckpointIO()


class EveryEpochs(Checkpoint):
    """`epoch<NNN>.ckpt` after each `every`-th epoch; none is ever deleted."""

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        number = trainer.current_epoch + 1
        if number % self.every == 0:
            trainer.save_checkpoint(self.folder / f"epoch{number:03d}.ckpt")
