"""What a transform takes its pixels from: an image whose size is known and whose pixels are asked
for by the box, so that none outside of it need be decoded.

H x W pixels.
"""

from typing import NamedTuple, Protocol

import numpy as np

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


class Picture(Protocol):
    """An image as a person sees it: upright, in sRGB.

    Attributes:
        height, width: of the whole image, in pixels
    """

    height: int
    width: int

    def crop(self, box: Box, size: int) -> np.ndarray:
        """The pixels [h, w, 3] uint8 of a box within the image. They may come at a smaller scale at
        which the box still has at least `size` pixels a side; 0: as they are.

        Raises:
            UnreadableError: the image turns out to be broken
        """
        ...


class Decoded:
    """An image whose pixels [H, W, 3] uint8 are all in memory."""

    def __init__(self, image_HWC: np.ndarray) -> None:
        self.image_HWC = image_HWC
        self.height, self.width = image_HWC.shape[:2]

    def crop(self, box: Box, size: int) -> np.ndarray:
        """A view of the pixels of the box, at full scale."""
        top, left, height, width = box
        return self.image_HWC[top : top + height, left : left + width]


class Finished(NamedTuple):
    """An image of an evaluation as the model sees it, which no transform need look at again."""

    pixels_HWC: np.ndarray
