"""data=jersey: renders photographs of numbers on jerseys, 43 classes, long-tailed, as small JPEGs.

Classes are 0, 00 and 1 to 41, the numbers that rules of basketball and football allow most often.
Each image has a generator of its own, so that the files are the same however many processes render
them. `drawing.py` has the picture; here is how many of which.
"""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clf.config import DataConfig, JerseyConfig
from clf.cores import usable_cores

CLASSES = ("0", "00", *(str(number) for number in range(1, 42)))
FONT_PACKAGES = ("font_fredoka_one", "font_roboto", "font_source_sans_pro")
VERSION = 1  # of what `write` makes; part of the folder's name
WORTH_A_PROCESS = 500  # images: fewer are rendered before a further Python has started
LEAST = 5  # images of a class: 3 to train, 1 to validate, 1 to test


class Task(NamedTuple):
    """One file to render."""

    path: Path
    number: str
    seed: tuple[int, ...]


def content(cfg: DataConfig) -> dict[str, object]:
    """All that decides what `write` makes."""
    return {"version": VERSION, **asdict(cfg.jersey)}


def missing() -> Iterator[str]:
    """A fault for what `write` needs and this Python has not got."""
    if lacking := [name for name in FONT_PACKAGES if find_spec(name) is None]:
        yield (
            "data=jersey: the typefaces that it draws with are not installed; "
            f"pip install {' '.join(lacking).replace('_', '-')}"
        )


def train_size(cfg: DataConfig) -> int:
    """Images in the training split."""
    return sum(count - sum(_held_out(count)) for count in class_counts(cfg.jersey).values())


def class_counts(cfg: JerseyConfig) -> dict[str, int]:
    """Images per class, `cfg.images` in all: geometric from most to least, in a seeded order.

    The largest is `cfg.imbalance` times the smallest, as near as whole numbers and at least five
    images a class allow.
    """
    steps_C = np.linspace(0, 1, len(CLASSES))
    shares_C = cfg.imbalance**-steps_C
    counts_C = np.maximum(LEAST, np.floor(cfg.images * shares_C / shares_C.sum())).astype(int)
    place = 0
    while (rest := cfg.images - counts_C.sum()) != 0:  # what rounding left, spread from the top
        if rest > 0 or counts_C[place] > LEAST:
            counts_C[place] += np.sign(rest)
        place = (place + 1) % len(CLASSES)
    order = np.random.default_rng([cfg.seed, 0]).permutation(len(CLASSES))
    return {CLASSES[label]: int(count) for label, count in zip(order, counts_C, strict=True)}


def write(cfg: DataConfig, folder: Path, processes: int | None = None) -> None:
    """An ImageFolder tree under `folder`: train, val and test.

    Args:
        processes: None: one a core; the files do not depend on it
    """
    tasks = list(_tasks(cfg.jersey, folder.absolute()))
    for parent in sorted({task.path.parent for task in tasks}):
        parent.mkdir(parents=True)
    if processes is None:
        processes = min(usable_cores(), 1 + len(tasks) // WORTH_A_PROCESS)
    helpers = [_start(tasks[part::processes], cfg.jersey.size) for part in range(1, processes)]
    try:
        _render_all(tasks[::processes], cfg.jersey.size)
    finally:
        codes = [helper.wait() for helper in helpers]
    if any(codes):
        raise RuntimeError(f"rendering failed in a helper process (exit codes {codes}), see above")


def _start(tasks: list[Task], size: int) -> subprocess.Popen[bytes]:
    """A fresh Python: rendering holds the GIL; `multiprocessing` would import the user's script."""
    code = f"from {__name__} import _render_from_stdin; _render_from_stdin()"
    root = Path(__file__).resolve().parents[2]
    helper = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=root)
    assert helper.stdin is not None
    with helper.stdin as pipe:
        pipe.write(pickle.dumps((tasks, size)))
    return helper


def _render_from_stdin() -> None:
    _render_all(*pickle.load(sys.stdin.buffer))


def _tasks(cfg: JerseyConfig, folder: Path) -> Iterator[Task]:
    for number, count in class_counts(cfg).items():
        val, test = _held_out(count)
        for place in range(count):
            split = "val" if place < val else "test" if place < val + test else "train"
            seed = (cfg.seed, 1, CLASSES.index(number), place)
            yield Task(folder / split / number / f"{number}_{place:04d}.jpg", number, seed)


def _held_out(count: int) -> tuple[int, int]:
    """Validation and test images of a class that has `count`."""
    return max(1, round(0.1 * count)), max(1, round(0.2 * count))


def _render_all(tasks: list[Task], size: int) -> None:
    from clf.data.drawing import draw_jersey

    for task in tasks:
        rng = np.random.default_rng(task.seed)
        image = draw_jersey(task.number, size, rng)
        image.save(task.path, quality=int(rng.integers(25, 90)))
