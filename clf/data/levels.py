"""Images of more than 8 bits a channel: which of their values is black and which is white.

Pillow keeps their numbers where an image is grey, and the upper 8 bits where it has colours; both
turn black where a 12-bit camera, a thermal one or a depth map uses a small part of the range.

H x W pixels, K channels.
"""

import io
import re
import sys

import numpy as np
from PIL import Image

# The largest value of 8, 10, 12, 14, 16, 24, 31 and 32 bits.
TOPS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31, 32))
USED = 1 / 16  # a range of which less is used is not what the image was made for
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
DEEP_COLOUR = re.compile(r"(RGB|RGBX|RGBA);16([LBN])")  # Pillow's words for how pixels are stored


def grey_levels(values: np.ndarray, white_level: float | None = None) -> np.ndarray:
    """Numbers of any type and range as uint8, in the same shape.

    Black is 0. White is `white_level`, or where that is None: of integers the largest value that
    the least sufficient of 8, 10, 12, 14, 16, 24 or 32 bits can hold; of floats 1, or 255 where
    there are larger ones. Where the values leave this range, or use less than a sixteenth of it,
    the smallest becomes black and the largest white. What is not a finite number becomes black.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return np.zeros(values.shape, np.uint8)
    low, high = float(finite.min()), float(finite.max())
    tops = TOPS if values.dtype.kind != "f" else (1, 255)
    top = white_level or next((top for top in tops if high <= top), None)
    if white_level is None and low < high and (not top or low < 0 or high - low < USED * top):
        black, white = low, high
    else:
        black, white = 0.0, float(top or 1)
    scaled = (values.astype(np.float64) - black) / (white - black) * 255
    return np.nan_to_num(scaled, posinf=0, neginf=0).clip(0, 255).round().astype(np.uint8)


def deep_values(image: Image.Image, data: bytes) -> np.ndarray | None:
    """[H, W, 1] or [H, W, K], K of RGB or RGBA, of an opened image whose values need more than 8
    bits; None for any other. Small values are dark.

    Args:
        data: the content of the file
    """
    stored = DEEP_COLOUR.fullmatch(_stored_as(image))
    if stored is not None:
        return _deep_colour(data, *stored.groups())
    if image.format == "PNG" and _stored_as(image) == "LA;16B":
        return _deep_grey_with_alpha(data)
    if not image.mode.startswith(("I", "F")):
        return None
    tags = dict(getattr(image, "tag_v2", {}))
    values_HW = np.array(image)
    if tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        values_HW = values_HW.view(np.uint32)  # which Pillow reads as int32
    if tags.get(PHOTOMETRIC) == 0:  # which is white, and Pillow leaves it so
        values_HW = values_HW.max() - values_HW
    return values_HW[..., None]


def colour_map(data: bytes) -> np.ndarray:
    """[H, W, 3] float32 of a portable float map with colours ("PF"), of which Pillow reads the
    grey ones only. Its rows run from the bottom to the top.

    Raises:
        ValueError: it is truncated, or its header is wrong
    """
    header = re.match(rb"PF\s+(\d+)\s+(\d+)\s+([-+.\deE]+)\s", data)
    if header is None:
        raise ValueError("the header of the portable float map is wrong")
    width, height = int(header[1]), int(header[2])
    check_size(width, height)
    size = 12 * width * height
    pixels = data[header.end() : header.end() + size]
    if not size or len(pixels) < size:
        raise ValueError(f"the portable float map has {len(pixels)} bytes of {size}")
    order = "<" if float(header[3]) < 0 else ">"
    return np.frombuffer(pixels, f"{order}f4").reshape(height, width, 3)[::-1].astype(np.float32)


def check_size(width: int, height: int) -> None:
    """Pillow's limit of an image's size, for what is decoded without Pillow.

    Raises:
        DecompressionBombError: more pixels than twice `PIL.Image.MAX_IMAGE_PIXELS`
    """
    limit, pixels = Image.MAX_IMAGE_PIXELS, width * height
    if limit is not None and pixels > 2 * limit:
        raise Image.DecompressionBombError(f"{pixels} pixels, and {2 * limit} are the most")


def _stored_as(image: Image.Image) -> str:
    """Pillow's word for how the file stores its pixels; "" where it has none."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    arguments = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return arguments if isinstance(arguments, str) else ""


def _deep_colour(data: bytes, mode: str, order: str) -> np.ndarray:
    """[H, W, K] uint16. Pillow gives the upper byte of each value, and the lower one when it takes
    the bytes for those of the other order."""
    native, other = ("L", "B") if sys.byteorder == "little" else ("B", "L")
    swapped = {"L": "B", "B": "L", "N": other}[order]
    high, low = (_read_as(data, f"{mode};16{way}") for way in (order, swapped))
    return high.astype(np.uint16) << 8 | low


def _read_as(data: bytes, stored_as: str) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.tile = [
            tile._replace(
                args=(stored_as, *tile.args[1:]) if isinstance(tile.args, tuple) else stored_as
            )
            for tile in image.tile
        ]
        return np.array(image)


def _deep_grey_with_alpha(data: bytes) -> np.ndarray:
    """[H, W, 4] uint16 of a PNG."""
    import torch
    from torchvision.io import ImageReadMode, decode_png

    content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    values_KHW = decode_png(content, ImageReadMode.UNCHANGED).numpy()
    return values_KHW[[0, 0, 0, 1]].transpose(1, 2, 0)
