"""data=digits: scikit-learn's 1,797 real handwritten digits (UCI, 8x8 grey) as 32x32 PNGs.

No download: they ship with scikit-learn. 20 % of each digit is for test, 10 % for validation.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from clf.config import DataConfig

CLASSES = tuple("0123456789")
COUNTS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)  # images per digit
SIDE = 32  # pixels, of the enlarged images
VERSION = 1  # of what `write` makes; part of the folder's name


def content(cfg: DataConfig) -> dict[str, object]:
    """All that decides what `write` makes."""
    return {"version": VERSION, "split_seed": cfg.split_seed}


def train_size(cfg: DataConfig) -> int:
    """Images in the training split."""
    return sum(count - sum(_held_out(count)) for count in COUNTS)


def write(cfg: DataConfig, folder: Path) -> None:
    """An ImageFolder tree under `folder`: train, val and test."""
    from sklearn.datasets import load_digits

    images_NHW, labels_N = load_digits(return_X_y=True)
    images_NHW = images_NHW.reshape(-1, 8, 8)
    for label, name in enumerate(CLASSES):
        members = np.flatnonzero(labels_N == label)
        assert len(members) == COUNTS[label], "scikit-learn's digits have changed"
        order = np.random.default_rng([cfg.split_seed, label]).permutation(members)
        val, test = _held_out(len(members))
        parts = {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}
        for split, indices in parts.items():
            (folder / split / name).mkdir(parents=True)
            for index in indices:
                _enlarge(images_NHW[index]).save(folder / split / name / f"{index:04d}.png")


def _held_out(count: int) -> tuple[int, int]:
    """Validation and test images of a digit that has `count`."""
    return round(0.1 * count), round(0.2 * count)


def _enlarge(image_HW: np.ndarray) -> Image.Image:
    """Grey levels 0..16 to 0..255, each stroke smooth."""
    grey_HW = np.round(image_HW * (255 / 16)).astype(np.uint8)
    return Image.fromarray(grey_HW).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
