"""Draws the splits that the data does not give, class by class, for `clf.data.index`."""

import os
import zlib

from clf.config import DataConfig
from clf.data.reader import Row


def stratify(rows: list[Row], cfg: DataConfig, test_fraction: float) -> list[list[Row]]:
    """Training, validation and test rows. Each class is split alone, by a generator of its own, so
    that another class moves no image.

    A class of at least three images has one in every split that is asked for.
    """
    import numpy as np

    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(str(row.label), []).append(row)
    parts: list[list[Row]] = [[], [], []]
    for name, members in sorted(by_class.items()):
        rng = np.random.default_rng([cfg.split_seed, zlib.crc32(os.fsencode(name))])
        members = sorted(members, key=_order)
        shuffled = [members[place] for place in rng.permutation(len(members))]
        test = _share(len(members), test_fraction)
        val = _share(len(members) - test, cfg.val_fraction * len(members) / (len(members) - test))
        parts[1] += shuffled[:val]
        parts[2] += shuffled[val : val + test]
        parts[0] += shuffled[val + test :]
    return [sorted(part, key=_order) for part in parts]


def _order(row: Row) -> tuple[bool, str | bytes, str | int, str]:
    """Files come before images in memory, which cannot be compared with them."""
    image = row.image if isinstance(row.image, bytes) else str(row.image)
    return isinstance(image, bytes), image, row.label, row.where


def _share(count: int, fraction: float) -> int:
    """Images of a class for one split: rounded, at least 1, and never the class's last."""
    if fraction <= 0:
        return 0
    return min(max(1, round(count * fraction)), count - 1)
