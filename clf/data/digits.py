"""data=digits: scikit-learn's 1,797 real handwritten digits (UCI, 8x8 grey) as 32x32 PNGs.

They ship with scikit-learn, so nothing is downloaded. 20 % of each digit's images are for test,
10 % for validation.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from clf.config import register
from clf.data.generated import writes_images

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

CLASSES = tuple("0123456789")
COUNTS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)  # images of each digit
SIDE = 32  # pixels a side of the enlarged images


def train_size(split_seed: int = 0) -> int:
    """Images in the training split, which do not depend on the seed."""
    return sum(count - sum(_held_out(count)) for count in COUNTS)


@register(name="digits", group="data")
@writes_images(classes=CLASSES, train_size=train_size, version=1)
def write_digits(folder: Path, split_seed: int) -> None:
    """Train, val and test under `folder`, each with a folder of images per digit."""
    import numpy as np
    from sklearn.datasets import load_digits

    images_NHW, labels_N = load_digits(return_X_y=True)
    images_NHW = images_NHW.reshape(-1, 8, 8)
    for label, name in enumerate(CLASSES):
        members = np.flatnonzero(labels_N == label)
        assert len(members) == COUNTS[label], "scikit-learn's digits have changed"
        order = np.random.default_rng([split_seed, label]).permutation(members)
        val, test = _held_out(len(members))
        parts = {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}
        for split, indices in parts.items():
            (folder / split / name).mkdir(parents=True)
            for index in indices:
                _enlarge(images_NHW[index]).save(folder / split / name / f"{index:04d}.png")


def _held_out(count: int) -> tuple[int, int]:
    """Validation and test images of a digit that has `count` images."""
    return round(0.1 * count), round(0.2 * count)


def _enlarge(image_HW: "np.ndarray") -> "Image.Image":
    """Grey levels 0..16 become 0..255, and each stroke smooth."""
    import numpy as np
    from PIL import Image

    grey_HW = np.round(image_HW * (255 / 16)).astype(np.uint8)
    return Image.fromarray(grey_HW).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
