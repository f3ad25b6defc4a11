"""Training images that live on the device (data.cache=device): decoded once, copied there once, and
cropped, resized and flipped there a batch at a time.

What is drawn for an image, and so its box, is what `TrainTransform` draws. The resize is torch's
own, bilinear with antialiasing; its sums are rounded as those of the CPU are, to within a grey
level.

B images of a batch, S x S pixels of each, h x w of its box, T pixels that one pixel is a mean of.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clf.config import DataConfig
from clf.data.cache import Cache, stored_box
from clf.data.cache_size import GB, size_text
from clf.data.decode import REMEDY, UnreadableError
from clf.data.reader import DataError

# What a row says of its image, int64: where its pixels begin among all, how many a line has; the
# box in them; whether it is flipped. A row of zeros is a black image.
COLUMNS = ("start", "line", "top", "left", "height", "width", "flipped")
SHARE_OF_FREE = 0.5  # of a GPU's memory, where data.cache_gb says nothing
PART = 2**28  # bytes that are copied at once
MOST = 2**25  # numbers of a part of a batch that is resized at once: some 500 MB


class OnDevice:
    """The pixels of a cache on a device, which every rank has on its own.

    Args:
        cache: of the training images; it is read here, and not kept
    """

    def __init__(self, cache: Cache, device: torch.device) -> None:
        self.rows_N5 = np.array(cache.rows_N5)
        pixels_P = torch.empty(len(cache.pixels), dtype=torch.uint8, device=device)
        for first in range(0, len(pixels_P), PART):
            part = np.array(cache.pixels[first : first + PART])  # of the file's map, which is not
            pixels_P[first : first + PART] = torch.from_numpy(part)  # to be written to
        self.pixels_P3 = pixels_P.view(-1, 3)

    def fill(self, row_7: Tensor, index: int, transform: Any, rng: np.random.Generator) -> None:
        """Write `COLUMNS` of an image.

        Args:
            transform: the TrainTransform that draws its box and whether it is flipped

        Raises:
            UnreadableError: it could not be decoded
        """
        start, h, w, height, width = self.rows_N5[index].tolist()
        if start < 0:
            raise UnreadableError(f"image {index} could not be read when it was decoded; {REMEDY}")
        box, flipped = transform.draw(height, width, rng)
        stored = stored_box(box, (height, width), (h, w))
        row_7.numpy()[:] = start // 3, w, *stored, flipped

    def close(self) -> None:
        """Give the device's memory back, whoever may still know this object."""
        self.pixels_P3 = torch.empty(0, 3, dtype=torch.uint8)

    def pictures(self, rows_B7: Tensor, size: int) -> Tensor:
        """[B, 3, size, size] uint8, on the device."""
        return crop_and_resize_batch(self.pixels_P3, rows_B7, size)


def store_on(device: torch.device | None, cache: Cache, cfg: DataConfig) -> OnDevice | None:
    """The images on a GPU; None where there is none: the cache serves a CPU as it is.

    Raises:
        DataError: they take too much of the GPU's memory
    """
    if device is None or device.type != "cuda":
        return None
    free, size = torch.cuda.mem_get_info(device)[0], len(cache.pixels)
    most = SHARE_OF_FREE * free if cfg.cache_gb is None else min(cfg.cache_gb * GB, free)
    if size > most:
        why = f"{SHARE_OF_FREE:.0%} of what is free" if cfg.cache_gb is None else "data.cache_gb"
        raise DataError(
            f"data.cache=device: the training images take {size_text(size)}, and a GPU gives them "
            f"at most {size_text(most)} ({why}); set data.cache=ram, or a smaller data.image_size"
        )
    return OnDevice(cache, device)


class Taps(NamedTuple):
    """The first pixel that each pixel along a side of the result is a mean of, and the weights."""

    first_BS: Tensor
    weights_TBS: Tensor


def crop_and_resize_batch(pixels_P3: Tensor, rows_B7: Tensor, size: int) -> Tensor:
    """[B, 3, S, S] uint8 in channels_last, on the device of the pixels.

    Args:
        pixels_P3: uint8, of all images, one after another
        rows_B7: `COLUMNS`, on the CPU, so that nothing waits for the device
        size: S
    """
    widest = max(1, int(rows_B7[:, 4].max()))
    many = max(1, MOST // (widest * size * 3))
    parts = [_resized(pixels_P3, part, size) for part in rows_B7.split(many)]
    return torch.cat(parts).permute(0, 3, 1, 2)


def _resized(pixels_P3: Tensor, rows_B7: Tensor, size: int) -> Tensor:
    """[B, S, S, 3] uint8: first along each line, then across the lines, as torch does it."""
    h = max(1, int(rows_B7[:, 4].max()))
    most = [_most_taps(int(rows_B7[:, column].max()), size) for column in (4, 5)]
    there = rows_B7.pin_memory() if pixels_P3.is_cuda else rows_B7
    rows_7B = there.to(pixels_P3.device, non_blocking=True).unbind(dim=1)
    start_B, line_B, top_B, left_B, height_B, width_B, flipped_B = rows_7B
    down, along = _taps(height_B, size, most[0]), _taps(width_B, size, most[1])
    flips_B1 = flipped_B[:, None] != 0
    first_BS = torch.where(flips_B1, along.first_BS.flip(1), along.first_BS)
    weights_TBS = torch.where(flips_B1, along.weights_TBS.flip(2), along.weights_TBS)
    lines_h = torch.arange(h, device=pixels_P3.device)
    lines_Bh = torch.minimum(lines_h, (height_B - 1).clamp(min=0)[:, None])
    begins_Bh1 = (start_B[:, None] + (top_B[:, None] + lines_Bh) * line_B[:, None])[:, :, None]
    last_B1 = (width_B - 1).clamp(min=0)[:, None]
    sum_BhS3: Tensor | float = 0.0
    for tap, weight_BS in enumerate(weights_TBS):
        column_BS = torch.minimum(first_BS + tap, last_B1) + left_B[:, None]
        value_BhS3 = pixels_P3[begins_Bh1 + column_BS[:, None, :]]
        sum_BhS3 = sum_BhS3 + value_BhS3 * weight_BS[:, None, :, None]
    lines_BhS3 = _rounded(sum_BhS3)
    images_B1 = torch.arange(len(rows_B7), device=pixels_P3.device)[:, None]
    sum_BSS3: Tensor | float = 0.0
    for tap, weight_BS in enumerate(down.weights_TBS):
        value_BSS3 = lines_BhS3[images_B1, (down.first_BS + tap).clamp(max=h - 1)]
        sum_BSS3 = sum_BSS3 + value_BSS3 * weight_BS[:, :, None, None]
    return _rounded(sum_BSS3)


def _most_taps(length: int, size: int) -> int:
    return 2 * math.ceil(max(1.0, length / size)) + 1


def _taps(length_B: Tensor, size: int, most: int) -> Taps:
    """A triangle over each pixel of the result, as wide as the pixels that it covers and at least
    as the pixels beside it; what reaches over the border is left out."""
    length_B1 = length_B[:, None].double()
    scale_B1 = length_B1 / size
    reach_B1 = scale_B1.clamp(min=1.0)
    centre_BS = (torch.arange(size, device=length_B.device) + 0.5) * scale_B1
    first_BS = (centre_BS - reach_B1 + 0.5).clamp(min=0.0).floor()
    last_BS = torch.minimum((centre_BS + reach_B1 + 0.5).floor(), length_B1)
    taps_T11 = torch.arange(most, device=length_B.device)[:, None, None]
    place_TBS = first_BS + taps_T11
    weight_TBS = (1 - ((place_TBS - centre_BS + 0.5) / reach_B1).abs()).clamp(min=0.0)
    weight_TBS = weight_TBS * (place_TBS < last_BS)
    weight_TBS = weight_TBS / weight_TBS.sum(dim=0).clamp(min=1e-12)
    return Taps(first_BS.long(), weight_TBS.float())


def _rounded(sums: Tensor | float) -> Tensor:
    assert isinstance(sums, Tensor)
    return sums.add_(0.5).clamp_(0, 255).to(torch.uint8)
