"""A CSV file with the prediction for every image, to find the wrong ones or to compute other
numbers from them."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from clf.batch import PADDING, ClassificationBatch


class PredictionFile(Callback):
    """Writes image, label, predicted and probability (of the predicted class) during a test on one
    rank.

    Args:
        path: the CSV file
        images: the file of each image, in the order of the split
        classes: the name of each class, in label order
    """

    def __init__(self, path: Path, images: list[str], classes: list[str]) -> None:
        self.path, self.images, self.classes = path, images, classes
        self.rows: list[tuple[str, str, str, str]] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClassificationBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        logits_BC: Tensor = outputs
        probability_B, predicted_B = torch.softmax(logits_BC.float(), dim=1).max(dim=1)
        columns = (batch["indices"], batch["labels"], predicted_B, probability_B)
        for index, label, predicted, probability in zip(
            *(c.tolist() for c in columns), strict=True
        ):
            if label != PADDING:
                names = self.classes[label], self.classes[predicted]
                self.rows.append((self.images[index], *names, f"{probability:.6f}"))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The bytes of names that are no UTF-8 stay as they are.
        with self.path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "label", "predicted", "probability"])
            writer.writerows(self.rows)
