"""Decodes an image of any common format to uint8 RGB as a person sees it: upright, in sRGB, its
transparent parts on a background.

JPEG goes through libjpeg-turbo (simplejpeg), which is 1.4 times as fast as PIL and releases the
GIL, with its fast transform: the pixels are within a few grey levels of PIL's. Every other format,
and an unusual JPEG, goes through PIL.
"""

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageColor

from clf.config import DataConfig
from clf.data.colour import composite, to_srgb
from clf.data.levels import check_size, colour_map, deep_values, grey_levels
from clf.data.reader import DataError, Source, Span

# PIL registers formats when a file first needs them, and threads that race there would find an
# unknown format.
Image.init()
ORIENTATION = 0x0112  # EXIF tag
APP1, APP2, START_OF_SCAN = 0xE1, 0xE2, 0xDA  # JPEG markers
ICC = b"ICC_PROFILE\0"  # begins a segment, then its number and that of all such segments
REMEDY = "replace it, take it out, or set data.on_bad_image=skip"


class UnreadableError(DataError):
    """An image that cannot be decoded."""


class Look(NamedTuple):
    """What a file leaves open about how its image looks."""

    background: tuple[int, int, int] = (255, 255, 255)  # under transparent pixels
    white_level: float | None = None  # see `clf.data.levels.grey_levels`

    @classmethod
    def of(cls, cfg: DataConfig) -> "Look":
        """ValueError: `data.background` is no colour."""
        red, green, blue = ImageColor.getrgb(cfg.background)[:3]
        return cls((red, green, blue), cfg.white_level)


ON_WHITE = Look()


def decode(
    image: Source, short_side: int = 0, name: str | None = None, look: Look = ON_WHITE
) -> np.ndarray:
    """The image [H, W, 3] uint8 RGB, turned upright by its EXIF orientation; of an animation the
    first frame.

    Args:
        image: path of a file, the content of one, or a part of a file
        short_side: a large JPEG may be decoded at a fraction of its size, its short side at least
            this many pixels (much faster, since libjpeg leaves out the fine detail); 0: full size
        name: of the image in messages; None: its path

    Raises:
        UnreadableError: no image, a truncated one, one of too many pixels, or a file that cannot be
            read; names the image
    """
    name = name or ("an image in memory" if isinstance(image, bytes) else str(image))
    try:
        data = image if isinstance(image, bytes) else _read(image)
        if not data:
            raise UnreadableError(f"{name}: the file is empty; {REMEDY}")
        image_HWC = _plain_jpeg(data, short_side) if data[:2] == b"\xff\xd8" else None
        return _any(data, look) if image_HWC is None else image_HWC
    except (UnreadableError, MemoryError):  # another machine may have the memory
        raise
    except Exception as error:  # PIL raises a dozen types for broken files
        reason = f"{type(error).__name__}: {error}".replace("<_io.BytesIO object at ", "<file ")
        raise UnreadableError(f"{name}: cannot be read as an image ({reason}); {REMEDY}") from error


def _read(image: str | Span) -> bytes:
    if isinstance(image, Span):
        return image.read()
    with open(image, "rb") as file:
        return file.read()


def _plain_jpeg(data: bytes, short_side: int) -> np.ndarray | None:
    """The image, or None where libjpeg is not enough: for CMYK, or data that it rejects."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray", "RGB"):
            return None
        check_size(width, height)
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
    has_app1, profile = _segments(data)
    if profile:
        grey = space == "Gray"
        flat = Image.fromarray(image_HWC[..., 0] if grey else image_HWC)
        image_HWC = np.asarray(to_srgb(flat, profile).convert("RGB"))
    if not has_app1:
        return image_HWC
    return _upright(image_HWC, _orientation(data))


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


def _orientation(image: bytes | Image.Image) -> int:
    """From EXIF or XMP; 1, upright, where that is broken: the pixels are none the worse for it."""
    try:
        if isinstance(image, bytes):
            with Image.open(io.BytesIO(image)) as opened:
                return int(opened.getexif().get(ORIENTATION, 1))
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # PIL raises a dozen types for broken blocks
        return 1


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


def _any(data: bytes, look: Look) -> np.ndarray:
    """The image by PIL; PIL itself turns a TIFF while it loads it, and then says so."""
    if data.startswith(b"PF"):
        return grey_levels(colour_map(data), look.white_level)
    with Image.open(io.BytesIO(data)) as image:
        values_HWK = deep_values(image, data)
        image.load()
        if values_HWK is None:
            colour, alpha_HW = _shallow(image)
        else:
            colour, alpha_HW = _deep(values_HWK, image.info.get("transparency"), look.white_level)
        profile = image.info.get("icc_profile") or b""
        image_HWC = np.asarray(to_srgb(colour, profile).convert("RGB"))
        if alpha_HW is not None:
            image_HWC = composite(image_HWC, alpha_HW, look.background)
        return _upright(image_HWC, _orientation(image))


def _shallow(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    """Colours, and what covers the background, of an image of at most 8 bits a channel."""
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        alpha_HW = np.asarray(with_alpha.getchannel("A"))
        return (with_alpha.getchannel("R") if mode == "L" else with_alpha.convert(mode)), alpha_HW
    if image.mode in ("L", "RGB", "CMYK", "LAB"):  # those that a profile may be of
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _deep(
    values_HWK: np.ndarray, transparent: object, white_level: float | None
) -> tuple[Image.Image, np.ndarray | None]:
    """The same of more bits. `transparent` is the grey level or colour that a PNG declares so."""
    colour_HWC, alpha_HW = values_HWK[..., :3], None
    if values_HWK.shape[2] == 4:
        alpha_HW = (values_HWK[..., 3] / 257).round().astype(np.uint8)
    elif isinstance(transparent, int | tuple):
        alpha_HW = np.where((colour_HWC == transparent).all(axis=2), 0, 255)
    levels_HWC = grey_levels(colour_HWC, white_level)
    grey = levels_HWC.shape[2] == 1
    return Image.fromarray(levels_HWC[..., 0] if grey else levels_HWC), alpha_HW
