"""Finds pictures that look the same although their files differ: saved anew, scaled, converted.

A perceptual hash of 64 bits, pHash by the package `imagehash`, proposes pairs; then both pictures
are compared at a small size, since hashes of crops of one scene are alike, too.
"""

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from PIL import Image

NEAR = 4  # bits by which the hashes of one picture may differ
BANDS = 5  # pieces of a hash: of at most NEAR flipped bits one piece has none
SMALL = 16  # pixels a side at which pictures are compared
SAME_MEAN, SAME_MOST = 6.0, 40.0  # grey levels that they may differ by: on average, at most
ROWS = 1024  # hashes that are compared with all of their bucket at a time
REMEDY = (
    "pictures that were saved anew are found with the package imagehash, which is not installed: "
    "pip install 'clf[duplicates]'; or compare files alone with --exact"
)


def missing() -> str:
    """What is missing to compute perceptual hashes, and the remedy; "" if nothing is."""
    return "" if find_spec("imagehash") is not None else REMEDY


def perceptual_hash(image_HWC: np.ndarray) -> int:
    """64 bits that hardly change when a picture is scaled or compressed."""
    import imagehash

    picture = Image.fromarray(image_HWC).convert("L")
    if min(picture.size) > 256:  # the hash is of 32 x 32 pixels, and scaling takes most of its time
        picture = picture.resize((128, 128), Image.Resampling.BOX)
    bits = imagehash.phash(picture).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def small(image_HWC: np.ndarray) -> np.ndarray:
    """The picture at the size at which pictures are compared, [16, 16, 3] float32."""
    resized = Image.fromarray(image_HWC).resize((SMALL, SMALL), Image.Resampling.BOX)
    return np.asarray(resized, dtype=np.float32)


def looks_same(one_HWC: np.ndarray, other_HWC: np.ndarray) -> bool:
    """Whether two pictures from `small` are the same but for what compression changes."""
    difference_HW = np.abs(one_HWC - other_HWC).mean(axis=2)
    return bool(difference_HW.mean() <= SAME_MEAN and difference_HW.max() <= SAME_MOST)


def near_pairs(hashes: list[int]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of hashes that differ by at most NEAR bits, each once. Of hashes that
    are all the same the first is paired with each other one."""
    values, inverse = np.unique(np.array(hashes, dtype=np.uint64), return_inverse=True)
    first = np.full(len(values), -1)
    for place, value in enumerate(inverse):
        if first[value] < 0:
            first[value] = place
        else:
            yield int(first[value]), place
    seen: set[tuple[int, int]] = set()
    for band in range(BANDS):
        for one, other in _alike_in_band(values, band):
            pair = tuple(sorted((int(first[one]), int(first[other]))))
            if pair not in seen:
                seen.add(pair)  # type: ignore[arg-type]
                yield pair  # type: ignore[misc]


def _alike_in_band(values: np.ndarray, band: int) -> Iterator[tuple[int, int]]:
    """Pairs that share this piece of the hash and differ by at most NEAR bits."""
    width = -(-64 // BANDS)
    keys = (values >> np.uint64(width * band)) & np.uint64(2**width - 1)
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    for bucket in np.split(order, ends):
        for start in range(0, len(bucket) - 1, ROWS):
            rows = bucket[start : start + ROWS]
            different = np.bitwise_count(values[rows, None] ^ values[None, bucket])
            for i, j in np.argwhere(different <= NEAR):
                if start + i < j:
                    yield int(rows[i]), int(bucket[j])
