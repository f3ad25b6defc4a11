"""What the tests of the data package share: folders of small images, and configs for them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clf.config import AugmentConfig, DataConfig


def noise(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A smooth random picture, its colours softer than its greys, as in photographs."""

    def smooth(cell: int, channels: int) -> np.ndarray:
        shape = (max(2, height // cell), max(2, width // cell), channels)
        coarse = Image.fromarray(
            rng.integers(0, 256, shape, dtype=np.uint8).repeat(3 // channels, 2)
        )
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float)

    mixed = 0.8 * smooth(8, 1) + 0.2 * smooth(16, 3)
    return Image.fromarray(mixed.astype(np.uint8))


def write_images(folder: Path, count: int, seed: int = 0, side: int = 24) -> list[Path]:
    """`count` JPEGs, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    for path in paths:
        noise(rng, side, side + 4).save(path, quality=90)
    return paths


def data_config(root: Path | None, **changes: object) -> DataConfig:
    """Small images, small batches, every augmentation that costs nothing."""
    defaults: dict[str, object] = {
        "name": "imagefolder",
        "root": None if root is None else str(root),
        "batch_size": 4,
        "image_size": 16,
        "threads": 0,
        "augment": AugmentConfig(crop_scale=[0.3, 1.0], brightness=0.3, noise=0.5),
    }
    return DataConfig(**{**defaults, **changes})  # type: ignore[arg-type]


@pytest.fixture
def picture() -> Image.Image:
    return noise(np.random.default_rng(0), 37, 52)


@pytest.fixture
def config() -> Callable[..., DataConfig]:
    return data_config


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes a split: 15 + 9 + 6 for training, 3 each to validate, 2 each to test."""
    root = tmp_path_factory.mktemp("images")
    for label, (name, count) in enumerate({"ant": 15, "bee": 9, "cat": 6}.items()):
        for place, (split, images) in enumerate({"train": count, "val": 3, "test": 2}.items()):
            write_images(root / split / name, images, seed=10 * label + place)
    return root


@pytest.fixture
def one_folder(tmp_path: Path) -> Callable[[dict[str, int]], Path]:
    """Makes a folder of classes without splits; the files are empty, which readers do not open."""

    def make(counts: dict[str, int]) -> Path:
        for name, count in counts.items():
            (tmp_path / name).mkdir()
            for number in range(count):
                (tmp_path / name / f"{name}{number:03d}.png").touch()
        return tmp_path

    return make
