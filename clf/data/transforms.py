"""From a picture to what the model sees: uint8, [3, S, S]. Training images are augmented, those of
an evaluation are not. The crop is chosen first, so that only its pixels are decoded.

An augmentation is a function of the image and a generator: its parameters are drawn from the
sample's own `numpy.random.Generator` and applied by torchvision's v2 functional kernels. Nothing
draws from a global generator.

C channels, H x W pixels, S pixels a side of the model's input.
"""

import math
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from clf.config import AugmentConfig, DataConfig
from clf.config.build import build
from clf.data.picture import Box, Picture
from clf.data.policies import rand_augment, trivial_augment

# Where torch resizes uint8 itself, what torchvision asks before it does is a tenth of the time.
NATIVE = torch.backends.cpu.get_cpu_capability().startswith("AVX")
LONGEST = 16  # times the short side
ERASED_RGB = (124, 116, 104)  # ImageNet's mean, which becomes 0 when the model normalises
ERASED_SCALE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # Zhong et al. 2017, arXiv 1708.04896


class TrainTransform:
    """Crop, flip, policy, colour jitter, noise, JPEG, transforms of the user's own, erasing: in
    this order, as the config says.

    Noise comes before JPEG, as in a camera. Erasing comes last, so that nothing blurs its edges.

    Args:
        trusted_packages: packages besides clf and torchvision that `augment.transforms` may name
        epochs: of the run, over which `cfg.start_size` grows; None: the images have `image_size`
    """

    def __init__(
        self, cfg: DataConfig, trusted_packages: Sequence[str] = (), epochs: int | None = None
    ) -> None:
        self.cfg, self.epochs = cfg, epochs
        self.size, self.interpolation = cfg.size, interpolation_of(cfg)
        self.augment = cfg.augment
        self.own = [
            OwnTransform(description, trusted_packages, f"data.augment.transforms.{place}")
            for place, description in enumerate(cfg.augment.transforms)
        ]

    def in_epoch(self, epoch: int) -> "TrainTransform":
        """The same for images as large as they are in that epoch, counted from 0."""
        changed = copy(self)
        if self.epochs is not None:
            changed.size = size_in_epoch(self.cfg, epoch, self.epochs)
        return changed

    def draw(self, height: int, width: int, rng: np.random.Generator) -> tuple[Box, bool]:
        """The box of an image, and whether it is flipped."""
        augment = self.augment
        box = draw_crop(height, width, augment.crop_scale, augment.crop_ratio, rng)
        return box, rng.random() < augment.horizontal_flip

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Tensor:
        """[3, S, S] uint8, a pure function of the picture and the generator's state."""
        augment = self.augment
        box, flipped = self.draw(picture.height, picture.width, rng)
        image_CHW = crop_and_resize(picture, box, self.size, self.interpolation)
        if flipped:
            image_CHW = F.horizontal_flip_image(image_CHW)
        if augment.policy == "rand_augment":
            ops, magnitude = augment.rand_augment_ops, augment.rand_augment_magnitude
            image_CHW = rand_augment(image_CHW, ops, magnitude, rng)
        elif augment.policy == "trivial_augment":
            image_CHW = trivial_augment(image_CHW, rng)
        image_CHW = jitter(image_CHW, augment, rng)
        if rng.random() < augment.noise:
            image_CHW = add_noise(image_CHW, augment.noise_std, rng)
        if rng.random() < augment.jpeg:
            low, high = augment.jpeg_quality
            image_CHW = F.jpeg_image(image_CHW.contiguous(), int(rng.integers(low, high + 1)))
        for transform in self.own:
            image_CHW = transform(image_CHW, rng)
        if rng.random() < augment.erasing:
            image_CHW = erase(image_CHW, rng)
        return image_CHW


class OwnTransform:
    """A transform of the user's own, `{_target_: mypkg.Blur, p: 0.5}`: what it builds is called as
    `transform(image_CHW, rng)` and returns an image_CHW like the one that it was given.

    All threads call the same object. To give the same pixels on any number of them it draws from
    `rng` alone and keeps nothing from one call to the next.

    Raises:
        ValueError: it cannot be built, or returns something else; names the transform
    """

    def __init__(self, description: Any, trusted_packages: Sequence[str], key: str) -> None:
        self.apply: Callable[[Tensor, np.random.Generator], Tensor]
        self.apply = build(description, trusted_packages, key)
        self.name = f"{key} ({description['_target_']})"
        if not callable(self.apply):
            raise ValueError(
                f"{self.name}: expected something to call as transform(image_CHW, rng), got a "
                f"{type(self.apply).__name__}"
            )

    def __call__(self, image_CHW: Tensor, rng: np.random.Generator) -> Tensor:
        shape = tuple(image_CHW.shape)
        result = self.apply(image_CHW, rng)
        if isinstance(result, Tensor):
            if result.dtype == torch.uint8 and tuple(result.shape) == shape:
                return result
            kind = str(result.dtype).removeprefix("torch.")
            got = f"{kind} tensor of shape {tuple(result.shape)}"
        else:
            got = type(result).__name__
        raise ValueError(f"{self.name}: expected a uint8 tensor of shape {shape} back, got a {got}")


class EvalTransform:
    """Short side to `eval_resize` pixels, then the middle S x S."""

    def __init__(self, cfg: DataConfig) -> None:
        self.size, self.interpolation = cfg.size_in_evaluation, interpolation_of(cfg)
        self.short_side = cfg.eval_resize or round(self.size / 0.875)

    def in_epoch(self, epoch: int) -> "EvalTransform":
        """Itself: an evaluation is the same in every epoch."""
        return self

    def __call__(self, picture: Picture, rng: np.random.Generator | None = None) -> Tensor:
        """[3, S, S] uint8. `rng` is not used; both transforms are called in the same way."""
        image_HWC = np.ascontiguousarray(picture.crop(middle(picture), self.short_side))
        image_CHW = F.resize_image(
            as_CHW(image_HWC), [self.short_side], self.interpolation, antialias=True
        )
        return F.center_crop_image(image_CHW, [self.size, self.size])


def middle(picture: Picture) -> Box:
    """All of the image, or of one that is longer than `LONGEST` times its short side the middle: a
    centre crop cuts off the rest in any case, which would be enlarged before, to any size."""
    height, width = picture.height, picture.width
    above = max(0, (height - LONGEST * width) // 2)
    before = max(0, (width - LONGEST * height) // 2)
    return above, before, height - 2 * above, width - 2 * before


def size_in_epoch(cfg: DataConfig, epoch: int, epochs: int) -> int:
    """Pixels a side in an epoch, counted from 0, of a run of `epochs`: from `start_size` along a
    straight line to `image_size`, rounded down to a number that networks can halve some times."""
    start, full = cfg.start_size, cfg.size
    growing = math.floor(cfg.grow_until * epochs + 1e-9)  # epochs
    if start is None or epoch >= growing:
        return full
    step = min(32, 2 ** int(math.log2(max(full, 8) / 7)))
    size = start + (full - start) * epoch / growing
    return min(full, max(start, int(size / step) * step))


def as_CHW(image_HWC: np.ndarray) -> Tensor:
    """A view of the same memory, channels last, which torchvision resizes fastest."""
    if not image_HWC.flags.writeable:  # an array of PIL's, which torch would warn of
        image_HWC = image_HWC.copy()
    return torch.from_numpy(image_HWC).permute(2, 0, 1)


def interpolation_of(cfg: DataConfig) -> InterpolationMode:
    """torchvision's word for `cfg.interpolation`."""
    return InterpolationMode(cfg.interpolation or "bilinear")


def crop_and_resize(
    picture: Picture,
    box: Box,
    size: int,
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> Tensor:
    """[3, size, size] uint8: of decoded pixels those of torchvision's `resized_crop`, in half its
    time.

    The crop is copied first: torch resizes a dense channels-last image without packing its pixels
    again, and the result has the batch's own memory order.
    """
    crop_CHW = as_CHW(np.ascontiguousarray(picture.crop(box, size)))
    if not NATIVE:
        return F.resize_image(crop_CHW, [size, size], interpolation, antialias=True)
    crop_1CHW = crop_CHW.permute(1, 2, 0)[None].permute(0, 3, 1, 2)  # strides as torch wants them
    mode = interpolation.value
    return interpolate(crop_1CHW, (size, size), mode=mode, align_corners=False, antialias=True)[0]


def draw_crop(
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    rng: np.random.Generator,
) -> Box:
    """Top, left, height and width of a crop: `scale` of the area, `ratio` of width to height.

    It is drawn as by torchvision's RandomResizedCrop: ten tries, then the largest crop in the
    middle whose ratio is within the limits (Szegedy et al. 2014, arXiv 1409.4842).
    """
    for _ in range(10):
        area = height * width * rng.uniform(scale[0], scale[1])
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(height - crop_height + 1))
            left = int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height = min(height, max(1, round(width / ratio[0])))
    crop_width = min(width, max(1, round(height * ratio[1])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def jitter(image_CHW: Tensor, augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue in a drawn order, as torchvision's ColorJitter."""
    kernels = (
        (F.adjust_brightness_image, augment.brightness),
        (F.adjust_contrast_image, augment.contrast),
        (F.adjust_saturation_image, augment.saturation),
    )
    if not any(amount for _, amount in kernels) and not augment.hue:
        return image_CHW
    for place in rng.permutation(4):
        if place == 3:
            if augment.hue:
                turn = rng.uniform(-augment.hue, augment.hue)
                image_CHW = F.adjust_hue_image(image_CHW, turn)
            continue
        kernel, amount = kernels[place]
        if amount:
            image_CHW = kernel(image_CHW, rng.uniform(max(0.0, 1 - amount), 1 + amount))
    return image_CHW


def add_noise(image_CHW: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Gaussian noise of `std` grey levels in every channel of every pixel."""
    noise_CHW = rng.standard_normal(tuple(image_CHW.shape), dtype=np.float32) * np.float32(std)
    return (image_CHW + torch.from_numpy(noise_CHW)).round_().clamp_(0, 255).to(torch.uint8)


def erase(image_CHW: Tensor, rng: np.random.Generator) -> Tensor:
    """One rectangle becomes the mean colour."""
    height, width = image_CHW.shape[-2:]
    top, left, crop_height, crop_width = draw_crop(height, width, ERASED_SCALE, ERASED_RATIO, rng)
    colour = torch.tensor(ERASED_RGB, dtype=torch.uint8)[:, None, None]
    return F.erase_image(image_CHW, top, left, crop_height, crop_width, colour)
