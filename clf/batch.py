"""The one thing that travels from data to models: a batch. It lives here so that neither imports
the other.

B images, C channels, H x W pixels.
"""

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

PADDING = -1  # the label of a row that is no image: evaluation pads ranks to equal length with it


class ClassificationBatch(TypedDict):
    """What a loader yields and a model takes."""

    images: "Tensor"  # [B, 3, H, W] uint8, channels_last
    labels: "Tensor"  # [B] int64; PADDING where the row counts for nothing
    indices: "Tensor"  # [B] int64, position in the split, also of an image that cannot be read and
    # has the label PADDING; PADDING where there is no image
