"""Decodes an image of any common format to uint8 RGB as a person sees it: upright, in sRGB, its
transparent parts on a background.

JPEG goes through libjpeg-turbo (`clf.data.jpeg`); every other format, and an unusual JPEG, through
PIL.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor

from clf.config import DataConfig
from clf.data.colour import composite, to_srgb
from clf.data.jpeg import Jpeg, orientation_of, upright
from clf.data.levels import colour_map, deep_values, grey_levels
from clf.data.picture import Box, Decoded, Picture
from clf.data.reader import DataError, Source, Span

# PIL registers formats when a file first needs them, and threads that race there would find an
# unknown format.
Image.init()
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


def open_picture(image: Source, name: str | None = None, look: Look = ON_WHITE) -> Picture:
    """An image, turned upright by its EXIF orientation; of an animation the first frame. The pixels
    of a JPEG are decoded when they are asked for, those of any other format at once.

    Args:
        image: path of a file, the content of one, or a part of a file
        name: of the image in messages; None: its path

    Raises:
        UnreadableError: no image, a truncated one, one of too many pixels, or a file that cannot be
            read; names the image
    """
    name = name or ("an image in memory" if isinstance(image, bytes) else str(image))
    with _named(name):
        data = image if isinstance(image, bytes) else _read(image)
        if not data:
            raise UnreadableError(f"{name}: the file is empty; {REMEDY}")
        if data[:2] == b"\xff\xd8":
            with suppress(ValueError):
                return JpegPicture(Jpeg(data), name, look)
        return Decoded(_any(data, look))


class JpegPicture:
    """A JPEG of which so far only the header has been read."""

    def __init__(self, jpeg: Jpeg, name: str, look: Look) -> None:
        self.jpeg, self.name, self.look = jpeg, name, look
        self.height, self.width = jpeg.height, jpeg.width

    def crop(self, box: Box, size: int) -> np.ndarray:
        """As `Picture.crop`."""
        with _named(self.name):
            with suppress(ValueError):
                return self.jpeg.crop(box, size)
            whole = Decoded(_any(self.jpeg.data, self.look))  # or PIL says what is wrong with it
            if (whole.height, whole.width) != (self.height, self.width):
                raise UnreadableError(
                    f"{self.name}: its header says {self.width}x{self.height} pixels and it has "
                    f"{whole.width}x{whole.height}; {REMEDY}"
                )
            return whole.crop(box, size)


def decode(
    image: Source, short_side: int = 0, name: str | None = None, look: Look = ON_WHITE
) -> np.ndarray:
    """All of an image [H, W, 3] uint8 RGB; see `open_picture`.

    Args:
        short_side: a large JPEG may be decoded at a fraction of its size, its short side at least
            this many pixels; 0: full size
    """
    picture = open_picture(image, name, look)
    return picture.crop((0, 0, picture.height, picture.width), short_side)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
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
        return upright(image_HWC, orientation_of(image))


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
