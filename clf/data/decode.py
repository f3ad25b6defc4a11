"""Decodes an image of any common format to uint8 RGB, upright.

JPEG goes through libjpeg-turbo (simplejpeg), which is 1.4 times as fast as PIL and releases the
GIL, with its fast transform: the pixels are within a few grey levels of PIL's. Every other format,
and an unusual JPEG, goes through PIL.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from clf.data.reader import DataError

# PIL registers formats when a file first needs them, and threads that race there would find an
# unknown format.
Image.init()
ORIENTATION = 0x0112  # EXIF tag
APP1, START_OF_SCAN = 0xE1, 0xDA  # JPEG markers


def decode(image: str | bytes, short_side: int = 0, name: str | None = None) -> np.ndarray:
    """The image [H, W, 3] uint8 RGB, turned upright by its EXIF orientation; alpha is dropped.

    Args:
        image: path of a file, or the content of one
        short_side: a large JPEG may be decoded at a fraction of its size, its short side at least
            this many pixels (much faster, since libjpeg leaves out the fine detail); 0: full size
        name: of the image in messages; None: its path

    Raises:
        DataError: no image, a truncated one, or a file that cannot be read; names the image
    """
    name = name or (image if isinstance(image, str) else "an image in memory")
    try:
        data = _read(image) if isinstance(image, str) else image
        if not data:
            raise DataError(f"{name}: the file is empty; replace it or take it out")
        image_HWC = _plain_jpeg(data, short_side) if data[:2] == b"\xff\xd8" else None
        return _any(data) if image_HWC is None else image_HWC
    except DataError:
        raise
    except Exception as error:  # PIL raises a dozen types for broken files
        reason = f"{type(error).__name__}: {error}".replace("<_io.BytesIO object at ", "<file ")
        raise DataError(
            f"{name}: cannot be read as an image ({reason}); replace it or take it out"
        ) from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _plain_jpeg(data: bytes, short_side: int) -> np.ndarray | None:
    """The image, or None where libjpeg is not enough: for CMYK, or data that it rejects."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray", "RGB"):
            return None
        small = min(height, width) >= 2 * short_side > 0
        image_HWC = simplejpeg.decode_jpeg(
            data,
            fastdct=True,
            fastupsample=True,
            min_height=short_side if small else 0,
            min_width=short_side if small else 0,
        )
    except ValueError:
        return None
    if _has_app1(data):
        with Image.open(io.BytesIO(data)) as image:
            return _upright(image_HWC, image.getexif().get(ORIENTATION, 1))
    return image_HWC


def _has_app1(data: bytes) -> bool:
    """Whether there may be EXIF or XMP, which hold an orientation. They are in the segments before
    the scan, a few steps away; a search for their names would read the whole file again."""
    place = 2
    while data[place : place + 1] == b"\xff" and (marker := data[place + 1]) != START_OF_SCAN:
        if marker == APP1:
            return True
        if marker == 0xFF:  # a marker may be padded with these
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _upright(image_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """The image turned as EXIF 2.3 (tag 274) says; an unknown value turns nothing."""
    turned = {
        2: lambda image: image[:, ::-1],
        3: lambda image: image[::-1, ::-1],
        4: lambda image: image[::-1],
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: np.rot90(image, -1),
        7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda image: np.rot90(image),
    }.get(orientation, lambda image: image)(image_HWC)
    return np.ascontiguousarray(turned)


def _any(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits; PIL's own conversion would clip all above 255
            grey_HW = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
            return np.repeat(grey_HW[..., None], 3, axis=2)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # PIL warns if it goes straight to RGB
        return np.asarray(image.convert("RGB"))
