"""Small pictures of images of a split, for a report on a machine that has no data."""

from collections.abc import Iterable
from pathlib import Path

from clf.atomic import write_file
from clf.data.decode import ON_WHITE, Look, decode
from clf.data.index import Split
from clf.data.reader import DataError

SIDE = 112  # pixels of the longer side
QUALITY = 80


def write_thumbnails(
    split: Split, indices: Iterable[int], folder: Path, look: Look = ON_WHITE
) -> None:
    """Write <index>.jpg for each image, except for those that cannot be read now.

    Args:
        indices: places of the images in the split
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for index in sorted(set(indices)):
        try:
            picture = Image.fromarray(decode(split.images[index], SIDE, look=look))
        except DataError:
            continue  # the evaluation has said it
        picture.thumbnail((SIDE, SIDE))

        def save(temporary: Path, picture: Image.Image = picture) -> None:
            picture.save(temporary, "JPEG", quality=QUALITY)

        write_file(folder / f"{index}.jpg", save)
