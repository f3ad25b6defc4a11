"""The resize and centre crop of an evaluation as a part of a network that is exported.

B images, 3 channels of RGB, H x W or S x S pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Crop:
    """How an image of any size becomes one of S x S pixels.

    Attributes:
        short_side: pixels of the short side after the resize
        size: S, of the middle that is cut out
        interpolation: "bilinear" or "bicubic", with antialiasing
    """

    short_side: int
    size: int
    interpolation: str


class Resize(nn.Module):
    """The evaluation's resize and centre crop, in floating point: uint8 pixels that the evaluation
    rounds differ by half a grey level or less."""

    def __init__(self, crop: Crop) -> None:
        super().__init__()
        self.short_side, self.size, self.mode = crop.short_side, crop.size, crop.interpolation

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] uint8 to [B, 3, S, S] float32 in 0..255."""
        height, width = images.shape[2], images.shape[3]
        # TorchScript and torch.export have no minimum in common.
        if torch.jit.is_scripting():  # noqa: SIM108  # of a ternary it would compile both sides
            short = min(height, width)
        else:
            short = torch.sym_min(height, width)  # type: ignore[assignment]
        new_height = self.short_side * height // short
        new_width = self.short_side * width // short
        resized = F.interpolate(
            images.to(torch.float32),
            size=[new_height, new_width],
            mode=self.mode,
            align_corners=False,
            antialias=True,
        )
        # The middle, halves rounded to the even number as Python and torchvision do
        down, right = new_height - self.size, new_width - self.size
        top = down // 2 + (down % 2) * ((down // 2) % 2)
        left = right // 2 + (right % 2) * ((right // 2) % 2)
        middle = resized[:, :, top : top + self.size, left : left + self.size]
        return torch.clamp(middle, 0.0, 255.0)  # bicubic overshoots
