"""From what a file's numbers mean to sRGB as a screen shows it: ICC profiles, transparency."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.createProfile("sRGB")
ALIKE = 3  # grey levels within which a profile is taken for sRGB itself


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The colours of an 8-bit image as sRGB; the image as it is, if it is sRGB already, or its
    profile is broken or meant for another kind of image.

    Args:
        profile: an ICC profile; b"": none
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is not converted in place
    return converted


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the profile to sRGB; None where nothing is to be done. Several threads may use it."""
    if mode not in ("L", "RGB", "CMYK", "LAB"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode not in ("L", "RGB"):
        return transform
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(colours).convert(mode)
    after = ImageCms.applyTransform(before, transform)
    assert after is not None
    change = np.asarray(after).astype(int) - np.asarray(before.convert("RGB"))
    return None if np.abs(change).max() <= ALIKE else transform


def composite(
    image_HWC: np.ndarray, alpha_HW: np.ndarray, background: tuple[int, int, int]
) -> np.ndarray:
    """The image laid on a colour; all numbers are 0..255."""
    alpha_HW1 = alpha_HW[..., None].astype(np.uint32)
    mixed = image_HWC * alpha_HW1 + np.array(background, np.uint32) * (255 - alpha_HW1)
    return ((mixed + 127) // 255).astype(np.uint8)
