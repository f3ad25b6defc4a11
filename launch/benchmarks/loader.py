"""JPEGs to training batches: our loader beside torchvision's reference."""

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from launch.benchmarks.comparison import Comparison, Measure, Side, Sizes, in_turns
from launch.benchmarks.jpegs import HEIGHT, WIDTH, write_jpegs

QUALITIES = (95, 97)  # files of about 80 and 100 kB; a heavier file is more decoding for both
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # torchvision's defaults of RandomResizedCrop


def loader(sizes: Sizes) -> Iterator[Comparison]:
    """An epoch of JPEGs to training batches: read, decode, crop, resize, flip."""
    for quality in QUALITIES:
        with tempfile.TemporaryDirectory(prefix="clf-benchmark-") as folder:
            kilobytes = write_jpegs(Path(folder), sizes.jpegs, quality) / 1000
            mine, count = our_loader(Path(folder), sizes)
            theirs = reference_loader(Path(folder), sizes)
            peer, ours = in_turns(sizes, _speed(theirs, count), _speed(mine, count))
        yield Comparison(
            f"{WIDTH}x{HEIGHT} JPEGs of {kilobytes:.0f} kB to {sizes.crop} px",
            "images/s",
            Side(f"ThreadedLoader, {sizes.workers} threads, uint8", ours),
            Side(f"torchvision reference, {sizes.workers} worker processes, float32", peer),
        )


def _speed(batches: Iterable[Any], count: int) -> Measure:
    def measure() -> float:
        start = time.perf_counter()
        for _ in batches:
            pass
        return count / (time.perf_counter() - start)

    return measure


def our_loader(folder: Path, sizes: Sizes) -> tuple[Any, int]:
    """The loader of a training run, and the images that it reads in an epoch."""
    import numpy as np
    from torchvision.datasets import ImageFolder

    from clf.config import AugmentConfig, DataConfig
    from clf.data.index import Split
    from clf.data.loader import ThreadedLoader
    from clf.data.sampler import TrainSampler
    from clf.data.transforms import TrainTransform

    augment = AugmentConfig(crop_scale=list(SCALE), crop_ratio=list(RATIO))
    cfg = DataConfig(batch_size=sizes.batch, image_size=sizes.crop, augment=augment)
    rows = ImageFolder(folder).samples * sizes.passes
    split = Split([path for path, _ in rows], np.array([label for _, label in rows]))
    order = TrainSampler(split.labels, cfg, seed=0)
    return ThreadedLoader(split, order, TrainTransform(cfg), 0, sizes.workers), order.size


def reference_loader(folder: Path, sizes: Sizes) -> Any:
    """As torchvision's references/classification builds it with PIL, its default backend."""
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms as v1
    from torchvision.datasets import ImageFolder

    transform = v1.Compose(
        [
            v1.RandomResizedCrop(sizes.crop, SCALE, RATIO),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = ImageFolder(folder, transform)
    return DataLoader(
        Subset(images, list(range(len(images))) * sizes.passes),
        batch_size=sizes.batch,
        shuffle=True,
        num_workers=sizes.workers,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )
