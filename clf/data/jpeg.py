"""The part of a JPEG that is asked for, at the smallest scale that has enough pixels.

libjpeg-turbo decodes at 1/2, 1/4 and 1/8 by leaving out the fine detail, with its fast transform:
the pixels are within a few grey levels of PIL's. Where jpeg_region.c has been compiled (see
`clf.data.jpeg_build`) what lies outside the part costs little; elsewhere, and where that doubts the
data, simplejpeg decodes all of the image. Both release the GIL and give the same pixels.

H x W pixels.
"""

import ctypes
import io
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from clf.data.colour import to_srgb
from clf.data.levels import check_size
from clf.data.picture import Box

ORIENTATION = 0x0112  # EXIF tag
APP1, APP2, START_OF_SCAN = 0xE1, 0xE2, 0xDA  # markers
ICC = b"ICC_PROFILE\0"  # begins a segment, then its number and that of all such segments
SCALES = (1, 2, 4)  # eighths of the size that libjpeg's fast transforms can give


def load(path: Path) -> ctypes.CDLL:
    """The compiled jpeg_region.c. OSError: this machine lacks libjpeg-turbo."""
    library = ctypes.CDLL(str(path))
    numbers = [ctypes.c_int] * 5
    library.clf_jpeg_region.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *numbers, ctypes.c_void_p]
    return library


def _library() -> ctypes.CDLL | None:
    for path in sorted(Path(__file__).parent.glob("jpeg_region*.so")):
        try:
            return load(path)
        except OSError as error:
            warnings.warn(
                f"{path} cannot be loaded ({error}), so that JPEGs are decoded whole, which takes "
                "longer; install libjpeg-turbo (on Debian libjpeg62-turbo), or compile it on this "
                "machine: python -m clf.data.jpeg_build",
                stacklevel=2,
            )
    return None


LIBRARY = _library()


class Jpeg:
    """The header of a JPEG.

    Args:
        data: the content of the file

    Attributes:
        height, width: of the image as a person sees it, upright

    Raises:
        ValueError: libjpeg is not enough: for CMYK, or data that it rejects
        PIL.Image.DecompressionBombError: it has too many pixels
    """

    def __init__(self, data: bytes) -> None:
        self.stored_height, self.stored_width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray", "RGB"):
            raise ValueError(f"a JPEG in {space}")
        check_size(self.stored_width, self.stored_height)
        self.data, self.grey = data, space == "Gray"
        has_app1, self.profile = _segments(data)
        self.orientation = orientation_of(data) if has_app1 else 1
        self.height, self.width = self.stored_height, self.stored_width
        if self.orientation in (5, 6, 7, 8):
            self.height, self.width = self.width, self.height

    def crop(self, box: Box, size: int) -> np.ndarray:
        """As `clf.data.picture.Picture.crop`. ValueError: libjpeg rejects the data."""
        eighths = scale_for(box, size)
        image_HWC = self._decode(as_stored(box, self), eighths)
        if self.profile:
            flat = Image.fromarray(image_HWC[..., 0] if self.grey else image_HWC)
            image_HWC = np.asarray(to_srgb(flat, self.profile).convert("RGB"))
        return upright(image_HWC, self.orientation)

    def _decode(self, box: Box, eighths: int) -> np.ndarray:
        """The pixels of a box of the stored image."""
        top, left, height, width = scaled(box, self, eighths)
        if LIBRARY is not None:
            region_HWC = np.empty((height, width, 3), np.uint8)
            where = (top, left, height, width, region_HWC.ctypes.data)
            if LIBRARY.clf_jpeg_region(self.data, len(self.data), eighths, *where) == 0:
                return region_HWC
        image_HWC = simplejpeg.decode_jpeg(
            self.data,
            fastdct=True,
            fastupsample=True,
            # Of the scales with so many pixels simplejpeg takes the smallest.
            min_height=-(-self.stored_height * eighths // 8) if eighths < 8 else 0,
            min_width=-(-self.stored_width * eighths // 8) if eighths < 8 else 0,
        )
        return np.ascontiguousarray(image_HWC[top : top + height, left : left + width])


def scale_for(box: Box, size: int) -> int:
    """The smallest scale, in eighths, at which a box has `size` pixels a side; 0: the full one."""
    short_side = min(box[2:])
    return next((scale for scale in SCALES if short_side * scale >= 8 * size > 0), 8)


def scaled(box: Box, jpeg: Jpeg, eighths: int) -> Box:
    """Where a box of the stored image is when that is at a scale: as large as before or by less
    than a pixel larger, its middle within half a pixel of where it was."""

    def side(start: int, length: int, limit: int) -> tuple[int, int]:
        at_scale, limit = -(-length * eighths // 8), -(-limit * eighths // 8)
        middle = (2 * start + length) * eighths  # in sixteenths of a pixel
        return min(max(0, (middle - 8 * at_scale + 8) // 16), limit - at_scale), at_scale

    top, height = side(box[0], box[2], jpeg.stored_height)
    left, width = side(box[1], box[3], jpeg.stored_width)
    return top, left, height, width


def as_stored(box: Box, jpeg: Jpeg) -> Box:
    """Where the pixels of a box of the upright image are in the stored one; see `upright`."""
    top, left, height, width = box
    if jpeg.orientation in (5, 6, 7, 8):
        top, left, height, width = left, top, width, height
    if jpeg.orientation in (3, 4, 6, 7):
        top = jpeg.stored_height - top - height
    if jpeg.orientation in (2, 3, 7, 8):
        left = jpeg.stored_width - left - width
    return top, left, height, width


def _segments(data: bytes) -> tuple[bool, bytes]:
    """Whether there may be EXIF or XMP, which hold an orientation, and the ICC profile. They are in
    the segments before the scan, a few steps away; a search for their names would read the whole
    file again."""
    has_app1, place = False, 2
    profile: dict[int, bytes] = {}  # its parts by their numbers
    while data[place : place + 1] == b"\xff" and (marker := data[place + 1]) != START_OF_SCAN:
        if marker == 0xFF:  # a marker may be padded with these
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == APP1:
            has_app1 = True
        elif marker == APP2 and data.startswith(ICC, place + 4):
            profile[data[place + 16]] = data[place + 18 : end]
        place = end
    return has_app1, b"".join(profile[number] for number in sorted(profile))


def orientation_of(image: bytes | Image.Image) -> int:
    """From EXIF or XMP; 1, upright, where that is broken: the pixels are none the worse for it."""
    try:
        if isinstance(image, bytes):
            with Image.open(io.BytesIO(image)) as opened:
                return int(opened.getexif().get(ORIENTATION, 1))
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # PIL raises a dozen types for broken blocks
        return 1


def upright(image_HWC: np.ndarray, orientation: int) -> np.ndarray:
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
