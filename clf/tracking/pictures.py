"""What of a run's data and machine is kept for its report: how many images there are, how the first
ones look to the network, and the versions of the packages."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from lightning import Callback
from PIL import Image
from torch import Tensor

from clf.atomic import write_file
from clf.batch import PADDING, ClassificationBatch
from clf.run_folder import TILES, RunFolder

MOST = 48  # images in the grid
TORCH = ("torch", "torchvision", "lightning", "torchmetrics", "deepspeed", "timm")
PACKAGES = (*TORCH, "numpy", "pillow", "simplejpeg", "wandb", "plotly")


class TrainingImages(Callback):
    """Writes the images of the run's first training batch as the network sees them, augmented and
    mixed, in a grid: train_images.png, and train_images.json with the labels.

    Args:
        classes: names in label order
    """

    def __init__(self, folder: RunFolder, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, classes

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: ClassificationBatch, batch_idx: int
    ) -> None:
        if batch_idx or not trainer.is_global_zero or self.folder.train_images.exists():
            return
        # What is mixed follows from seed, epoch and number, so the step itself mixes the same.
        images_BCHW = pl_module.mixed(batch, batch_idx)[0]["images"][:MOST]
        if images_BCHW.is_floating_point():
            images_BCHW = images_BCHW * pl_module.std + pl_module.mean
        labels_B = batch["labels"][:MOST].tolist()
        names = [self.classes[label] if label != PADDING else "" for label in labels_B]
        grid = _grid(images_BCHW.clamp(0, 255).round().to(torch.uint8).cpu())

        def save(temporary: Any) -> None:
            grid.save(temporary, "PNG")

        writer, images = self.folder.writer, self.folder.train_images
        writer.write(images, lambda: write_file(images, save), keep=True)
        self.folder.keep_json(images.with_suffix(".json"), names)


def _grid(images_BCHW: Tensor) -> Image.Image:
    B, _, height, width = images_BCHW.shape
    grid = Image.new("RGB", (TILES * width, -(-B // TILES) * height), "white")
    for place, image_CHW in enumerate(images_BCHW):
        tile = Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().numpy())
        grid.paste(tile, (place % TILES * width, place // TILES * height))
    return grid


def write_data(folder: RunFolder, root: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """data.json.

    Args:
        root: where the images are
        counts: split -> class -> number of images
    """
    folder.keep_json(folder.data, {"root": root, "images": counts})


def write_environment(folder: RunFolder) -> None:
    """environment.json: versions and machine. Variables of the environment may be secret."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    found["cuda"] = torch.version.cuda
    found["cores"] = os.cpu_count()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    folder.keep_json(folder.environment, found)
