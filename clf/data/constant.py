"""Finds classes whose images are one colour everywhere: black images of a format that was read
wrongly, empty frames of a camera. A network trains on them without a word."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clf.config import DataConfig
from clf.data.decode import Look, decode
from clf.data.overlap import Member
from clf.data.reader import DataError, first_and_count

MOST_CLASSES = 1000  # of which an image is decoded: a second or two
MORE = 15  # images of a class whose first one is one colour
SIDE = 64  # pixels; a large JPEG is decoded at a fraction of its size
SHOWN = 3  # examples in the note


def constant_notes(members: Sequence[Member], cfg: DataConfig) -> list[str]:
    """A line that names the classes whose images, of those that were looked at, are all constant.

    Args:
        members: the images that train
    """
    of_class: dict[str, list[Member]] = {}
    for member in members:
        of_class.setdefault(member.label, []).append(member)
    look = Look.of(cfg)
    with ThreadPoolExecutor() as pool:
        classes = list(of_class.values())[:MOST_CLASSES]
        first = pool.map(lambda images: _colour(images[0], look), classes)
        found = []
        for images, colour in zip(classes, list(first), strict=True):
            looked = images[: 1 + MORE]
            if colour and all(pool.map(lambda image: _colour(image, look), looked[1:])):
                found.append(f"{looked[0].label} ({len(looked)} of {len(images)}, {colour})")
    if not found:
        return []
    one = len(found) == 1
    return [
        f"{len(found)} {'class has' if one else 'classes have'} nothing but images of one colour, "
        f"by those that were looked at: {first_and_count(found, SHOWN)}; look at the files, and "
        "set data.white_level where their values use a small part of their range"
    ]


def _colour(member: Member, look: Look) -> str:
    """The colour of a constant image; "" of any other."""
    try:
        image_HWC = decode(member.image, SIDE, member.place, look)
    except (DataError, OSError):
        return ""  # training names an image that cannot be decoded
    if np.any(image_HWC != image_HWC[0, 0]):
        return ""
    red, green, blue = map(int, image_HWC[0, 0])
    return f"RGB {red} {green} {blue}"
