"""Keeps what the network says of every image in an evaluation outside of the training, or of images
to predict.

B rows of a batch, N images, C classes, the K most probable ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from clf.batch import PADDING, ClassificationBatch
from clf.predictions import Predictions, worth_seeing
from clf.run_folder import RunFolder

Thumbnails = Callable[[str, list[int], Path], None]
Part = tuple[np.ndarray, ...]  # indices, labels, predicted, probabilities of some rows


class KeepPredictions(Callback):
    """Gathers the predictions of `trainer.test` and `trainer.validate` from all ranks on rank 0.

    The validations within a fit are left alone: they would wait for the device in each batch.

    Args:
        classes: names in label order
        folder: the predictions go to its `predictions/<split>.npz`; None: they are only kept here
        thumbnails: (split, indices, folder) writes small pictures of the images that are worth
            seeing to the folder's `pictures/<split>`; None: none are written
    """

    def __init__(
        self,
        classes: list[str],
        folder: RunFolder | None = None,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self.classes, self.folder, self.thumbnails = classes, folder, thumbnails
        self.predictions: Predictions | None = None  # of the last evaluation, on rank 0
        self._parts: list[Part] = []
        self._unfit = ""  # why there are none

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._take(outputs, batch)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any
    ) -> None:
        if trainer.state.fn == "validate":
            self._take(outputs, batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._gather(trainer, trainer.test_dataloaders)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._gather(trainer, trainer.val_dataloaders)

    def _take(self, logits_BC: Any, batch: ClassificationBatch) -> None:
        if not isinstance(logits_BC, Tensor) or logits_BC.ndim != 2:
            self._unfit = "test_step or validation_step of the model does not return logits [B, C]"
            return
        rows_n = (batch["labels"] != PADDING).nonzero().squeeze(1)
        # Not the largest probability: two logits may differ where the probabilities do not.
        predicted_B = logits_BC.argmax(dim=1)
        probabilities_BC = torch.softmax(logits_BC.float(), dim=1)
        columns = batch["indices"], batch["labels"], predicted_B, probabilities_BC
        self._parts.append(tuple(one[rows_n].cpu().numpy() for one in columns))

    def _gather(self, trainer: Any, loader: Any) -> None:
        """Put the rows of all ranks into the order of the split; on all ranks together."""
        mine, self._parts = self._parts, []
        ranks: list[Any] = [(mine, self._unfit)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = [None] * trainer.world_size
            into = ranks if trainer.is_global_zero else None
            torch.distributed.gather_object((mine, self._unfit), into)
        if not trainer.is_global_zero:
            return
        parts = [part for rank, _ in ranks for part in rank]
        unfit = next((why for _, why in ranks if why), "")
        if unfit or not parts or not hasattr(loader, "split"):
            rank_zero_warn(
                "no predictions are kept: "
                + (unfit or "the loader is not that of ClassificationDataModule")
            )
            return
        self.predictions = _in_order(parts, loader, self.classes)
        if self.folder is not None:
            self._write(self.folder, self.predictions)

    def _write(self, folder: RunFolder, predictions: Predictions) -> None:
        path = folder.predictions_of(predictions.split)
        folder.writer.write(path, lambda: predictions.write(path), keep=True)
        if (thumbnails := self.thumbnails) is not None:
            small = folder.pictures_of(predictions.split)
            what = predictions.split, worth_seeing(predictions), small
            folder.writer.write(small, lambda: thumbnails(*what), keep=True)


class KeepTop(Callback):
    """Gathers the most probable classes of the images that `trainer.predict` is given, on one rank.
    Rows whose label is PADDING, those of images that cannot be read, are left out.

    Args:
        k: classes that are kept
        mirrored: take the mean of the probabilities of an image and of its mirror image
    """

    def __init__(self, k: int, mirrored: bool = False) -> None:
        self.k, self.mirrored = k, mirrored
        self._parts: list[tuple[Tensor, ...]] = []  # on the device: no step waits for it

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClassificationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        scores_BC = logits_BC = outputs.float()
        probabilities_BC = torch.softmax(logits_BC, dim=1)
        if self.mirrored:
            with trainer.precision_plugin.predict_step_context():
                mirror_BC = pl_module(batch["images"].flip(3)).float()
            probabilities_BC = (probabilities_BC + torch.softmax(mirror_BC, dim=1)) / 2
            scores_BC = probabilities_BC
        # Sorted by logits, as an evaluation predicts: they may differ where probabilities do not.
        top_BK = scores_BC.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        columns = batch["indices"], batch["labels"], top_BK, probabilities_BC.gather(1, top_BK)
        self._parts.append(columns)

    def result(self) -> Part:
        """indices_N in the order of the images, top_NK and probabilities_NK.

        Raises:
            ValueError: a probability is no number
        """
        parts = (torch.cat(columns).cpu() for columns in zip(*self._parts, strict=True))
        indices_M, labels_M, top_MK, probabilities_MK = parts
        kept_N = labels_M != PADDING
        if not torch.isfinite(probabilities_MK[kept_N]).all():
            raise ValueError("the network gives no finite numbers: its training has diverged")
        columns = indices_M, top_MK, probabilities_MK
        return tuple(column[kept_N].numpy() for column in columns)


def _in_order(parts: list[Part], loader: Any, classes: list[str]) -> Predictions:
    indices_N, labels_N, predicted_N, probabilities_NC = map(
        np.concatenate, zip(*parts, strict=True)
    )
    order_N = np.argsort(indices_N)
    return Predictions(
        loader.split.name,
        list(classes),
        [loader.path(index) for index in indices_N[order_N].tolist()],
        indices_N[order_N],
        labels_N[order_N],
        predicted_N[order_N],
        probabilities_NC[order_N],
    )
