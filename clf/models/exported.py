"""Whether an exported file says the same as the network that it was made of, on real images. Knows
no format: a file is a function from images to probabilities. Imports no torch.

N images, B of a batch, C classes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# [B, 3, H, W] uint8 -> [B, C] float32
Run = Callable[[np.ndarray], np.ndarray]
BATCHES = (1, 3, 8)  # images of the first batches, so that each check tries several
LATER = 32
TIMED = 20  # single images that are timed


@dataclass(frozen=True)
class Difference:
    """A file beside the checkpoint.

    Attributes:
        images: N
        largest_difference: of two probabilities
        changed_predictions: images whose predicted class is another one
        top1_of_checkpoint, top1: share of the images with a known label that the checkpoint and the
            file get right; None without labels
        ms_per_image: by the file, in batches of one, median
    """

    images: int
    largest_difference: float
    changed_predictions: int
    top1_of_checkpoint: float | None
    top1: float | None
    ms_per_image: float


@dataclass(frozen=True)
class Images:
    """What is shown to a file.

    Attributes:
        batches: gives [B, 3, H, W] uint8 from the first one on, each time it is called
        labels_N: -1 where not known
        repeated: so many of the first are copies, which are compared and not counted
    """

    batches: Callable[[], Iterator[np.ndarray]]
    labels_N: np.ndarray
    repeated: int = 0

    def __len__(self) -> int:
        """How many count."""
        return len(self.labels_N) - self.repeated

    def by(self, run: Run) -> np.ndarray:
        """The probabilities [N, C]; ValueError if there are not as many rows as images."""
        rows = []
        for images_BCHW in self.batches():
            given = run(images_BCHW)
            if given.ndim != 2 or len(given) != len(images_BCHW):
                raise ValueError(
                    f"it gave an array of shape {given.shape} for {len(images_BCHW)} images; "
                    "expected a row an image"
                )
            rows.append(given)
        return np.concatenate(rows)


def in_batches(images_NCHW: np.ndarray, labels_N: np.ndarray) -> Images:
    """Images of one size in batches of several lengths."""
    ends = [0, *np.cumsum(BATCHES).tolist()]
    ends += range(ends[-1] + LATER, len(images_NCHW) + LATER, LATER)

    def batches() -> Iterator[np.ndarray]:
        for start, end in zip(ends, ends[1:], strict=False):
            if start < len(images_NCHW):
                yield np.ascontiguousarray(images_NCHW[start:end])

    return Images(batches, labels_N)


def one_by_one(
    read: Callable[[int], np.ndarray], indices: Sequence[int], labels_n: np.ndarray
) -> Images:
    """Images of any sizes, each in a batch of its own; the first one in other batches too.

    Args:
        read: gives the image [3, H, W] of an index; they are not all kept in memory
        labels_n: of the indices
    """

    def batches() -> Iterator[np.ndarray]:
        for length in BATCHES[1:]:
            yield np.repeat(read(indices[0])[None], length, axis=0)
        for index in indices:
            yield np.ascontiguousarray(read(index)[None])

    repeated = [np.repeat(labels_n[:1], length) for length in BATCHES[1:]]
    return Images(batches, np.concatenate([*repeated, labels_n]), sum(BATCHES[1:]))


def difference(run: Run, images: Images, expected_NC: np.ndarray) -> Difference:
    """What a file says of images beside what it should say."""
    given_NC = images.by(run)
    if given_NC.shape != expected_NC.shape:
        raise ValueError(f"it gave {given_NC.shape[1]} numbers for {expected_NC.shape[1]} classes")
    counted = slice(images.repeated, None)
    given_N, expected_N = (one[counted].argmax(axis=1) for one in (given_NC, expected_NC))
    labels_N = images.labels_N[counted]
    known_N = labels_N >= 0
    before, after = (
        float((one[known_N] == labels_N[known_N]).mean()) if known_N.any() else None
        for one in (expected_N, given_N)
    )
    # A number that is none must not pass as small.
    apart = np.nan_to_num(np.abs(given_NC - expected_NC), nan=np.inf)
    changed = int((given_N != expected_N).sum())
    speed = milliseconds(run, images)
    return Difference(len(images), float(apart.max()), changed, before, after, speed)


def milliseconds(run: Run, images: Images) -> float:
    """Of one image in a batch of its own, median, after some that warm up."""
    image, took = next(images.batches())[:1], []
    for _ in range(TIMED + 3):
        start = time.perf_counter()
        run(image)
        took.append(time.perf_counter() - start)
    return float(np.median(took[3:])) * 1000


def check(found: Difference, name: str, bound: float) -> None:
    """ValueError if a file of floating-point numbers is not the network."""
    if found.largest_difference <= bound:
        return
    raise ValueError(
        f"{name} differs from the checkpoint: probabilities by up to "
        f"{found.largest_difference:.3g} on {found.images} images, more than --bound {bound:g}, "
        f"and {found.changed_predictions} predictions change. No file is left. A network that "
        "draws random numbers when it evaluates, or whose images depend on each other, cannot be "
        "exported as it is; where the difference is small enough for you, give a larger --bound"
    )


def check_int8(found: Difference, name: str, most_lost: float) -> None:
    """ValueError if 8-bit integers cost too much."""
    before, after = found.top1_of_checkpoint, found.top1
    if before is None or after is None:
        raise ValueError(f"{name}: no image that it was shown has a label; give data.root=FOLDER")
    if before - after <= most_lost + 1e-9:
        return
    raise ValueError(
        f"{name}: 8-bit integers lower the top-1 from {before:.2%} to {after:.2%} on "
        f"{found.images} images, by more than --int8-loss {most_lost:g}. No file is left. Try "
        "the other of --int8 static and --int8 dynamic, or allow a larger --int8-loss"
    )
