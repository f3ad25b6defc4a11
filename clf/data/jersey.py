"""data=jersey: photographs of numbers on jerseys, rendered as small JPEGs; 43 classes, long-tailed.

Classes are 0, 00 and 1 to 41, the numbers that the rules of basketball and football allow most
often. Each image has a generator of its own, so the files are the same however many processes
render them. `clf/data/drawing.py` draws one picture; this file decides how many of each class.
"""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from clf.config import register
from clf.config.about import About
from clf.cores import usable_cores
from clf.data.drawing import FONTS, draw_jersey
from clf.data.generated import writes_images
from clf.data.reader import DataError

CLASSES = ("0", "00", *(str(number) for number in range(1, 42)))
WORTH_A_PROCESS = 500  # images: fewer are rendered before another Python has started
LEAST = 5  # images of a class: 3 to train, 1 to validate, 1 to test
LEAST_IMAGES = 430  # in all, so that there can be a long tail


class Task(NamedTuple):
    """One file to render."""

    path: Path
    number: str
    seed: tuple[int, ...]


def class_counts(images: int, imbalance: float, render_seed: int) -> dict[str, int]:
    """Images of each class, `images` in all: geometric from most to least, in a seeded order.

    The largest is `imbalance` times the smallest, as nearly as whole numbers and at least five
    images a class allow.

    Raises:
        DataError: too few images for all classes, or no such imbalance
    """
    if images < LEAST_IMAGES:
        raise DataError(f"data.images={images}: expected a number of at least {LEAST_IMAGES}")
    if imbalance < 1:
        raise DataError(f"data.imbalance={imbalance}: expected a number of at least 1")
    steps_C = np.linspace(0, 1, len(CLASSES))
    shares_C = imbalance**-steps_C
    counts_C = np.maximum(LEAST, np.floor(images * shares_C / shares_C.sum())).astype(int)
    place = 0
    while (rest := images - counts_C.sum()) != 0:  # what rounding left, spread from the top
        if rest > 0 or counts_C[place] > LEAST:
            counts_C[place] += np.sign(rest)
        place = (place + 1) % len(CLASSES)
    order = np.random.default_rng([render_seed, 0]).permutation(len(CLASSES))
    return {CLASSES[label]: int(count) for label, count in zip(order, counts_C, strict=True)}


def train_size(images: int, pixels: int, imbalance: float, render_seed: int) -> int:
    """Images in the training split."""
    counts = class_counts(images, imbalance, render_seed)
    return sum(count - sum(_held_out(count)) for count in counts.values())


@register(name="jersey", group="data")
@writes_images(
    classes=CLASSES,
    train_size=train_size,
    version=1,
    needs=tuple(dict.fromkeys(package for package, _ in FONTS)),
    extra="jersey",
)
def write_jersey(
    folder: Path,
    *,
    images: Annotated[int, About("images to render, over all splits", 430)] = 6000,
    pixels: Annotated[int, About("height of a rendered image", 16, high=1024)] = 96,
    imbalance: Annotated[float, About("images of the largest class / of the smallest", 1.0)] = 30.0,
    render_seed: Annotated[int, About("of the pictures, and of which numbers are rare", 0)] = 0,
) -> None:
    """Train, val and test under `folder`, each with a folder of images per number."""
    counts = class_counts(images, imbalance, render_seed)
    tasks = list(_tasks(folder.absolute(), counts, render_seed))
    render(tasks, pixels, min(usable_cores(), 1 + len(tasks) // WORTH_A_PROCESS))


def render(tasks: list[Task], pixels: int, processes: int) -> None:
    """Write the files of all tasks; they do not depend on the number of processes."""
    for parent in sorted({task.path.parent for task in tasks}):
        parent.mkdir(parents=True)
    helpers = [_start(tasks[part::processes], pixels) for part in range(1, processes)]
    try:
        _render_all(tasks[::processes], pixels)
    finally:
        codes = [helper.wait() for helper in helpers]
    if any(codes):
        raise RuntimeError(f"rendering failed in a helper process (exit codes {codes}), see above")


def _start(tasks: list[Task], pixels: int) -> subprocess.Popen[bytes]:
    """A fresh Python, because rendering holds the GIL and `multiprocessing` would import the user's
    script."""
    code = f"from {__name__} import _render_from_stdin; _render_from_stdin()"
    root = Path(__file__).resolve().parents[2]
    helper = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=root)
    assert helper.stdin is not None
    with helper.stdin as pipe:
        pipe.write(pickle.dumps((tasks, pixels)))
    return helper


def _render_from_stdin() -> None:
    _render_all(*pickle.load(sys.stdin.buffer))


def _tasks(folder: Path, counts: dict[str, int], render_seed: int) -> Iterator[Task]:
    for number, count in counts.items():
        val, test = _held_out(count)
        for place in range(count):
            split = "val" if place < val else "test" if place < val + test else "train"
            seed = (render_seed, 1, CLASSES.index(number), place)
            yield Task(folder / split / number / f"{number}_{place:04d}.jpg", number, seed)


def _held_out(count: int) -> tuple[int, int]:
    """Validation and test images of a class that has `count` images."""
    return max(1, round(0.1 * count)), max(1, round(0.2 * count))


def _render_all(tasks: list[Task], pixels: int) -> None:
    for task in tasks:
        rng = np.random.default_rng(task.seed)
        image = draw_jersey(task.number, pixels, rng)
        image.save(task.path, quality=int(rng.integers(25, 90)))
