"""RandAugment and TrivialAugment, with torchvision's operations and strengths; their parameters are
drawn from a given generator.

Cubuk et al. 2019, arXiv 1909.13719; Mueller and Hutter 2021, arXiv 2103.10158 (its wide space).
"""

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

BINS = 31  # magnitudes 0..30


def shear(image_CHW: Tensor, x: float, y: float) -> Tensor:
    degrees = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    return F.affine_image(image_CHW, 0.0, [0, 0], 1.0, degrees, center=[0.0, 0.0])


def translate(image_CHW: Tensor, x: int, y: int) -> Tensor:
    return F.affine_image(image_CHW, 0.0, [x, y], 1.0, [0.0, 0.0])


Operation = Callable[[Tensor, float], Tensor]
OPERATIONS: dict[str, Operation] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, amount: shear(image, amount, 0.0),
    "ShearY": lambda image, amount: shear(image, 0.0, amount),
    "TranslateX": lambda image, amount: translate(image, int(amount), 0),
    "TranslateY": lambda image, amount: translate(image, 0, int(amount)),
    "Rotate": lambda image, amount: F.rotate_image(image, amount),
    "Brightness": lambda image, amount: F.adjust_brightness_image(image, 1 + amount),
    "Color": lambda image, amount: F.adjust_saturation_image(image, 1 + amount),
    "Contrast": lambda image, amount: F.adjust_contrast_image(image, 1 + amount),
    "Sharpness": lambda image, amount: F.adjust_sharpness_image(image, 1 + amount),
    "Posterize": lambda image, bits: F.posterize_image(image, int(bits)),
    "Solarize": lambda image, threshold: F.solarize_image(image, threshold * 255),
    "AutoContrast": lambda image, _: F.autocontrast_image(image),
    "Equalize": lambda image, _: F.equalize_image(image),
}
NAMES = list(OPERATIONS)
SIGNED = NAMES[1:10]  # ShearX to Sharpness go either way


def rand_magnitude(name: str, level: int, height: int, width: int) -> float:
    """RandAugment's strength of an operation at a magnitude of 0..30."""
    share = level / (BINS - 1)
    if name == "Posterize":
        return 8 - round(share * 4)
    if name == "Solarize":
        return 1 - share
    most = {
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 150.0 / 331.0 * width,
        "TranslateY": 150.0 / 331.0 * height,
        "Rotate": 30.0,
    }
    return share * most.get(name, 0.9)


def trivial_magnitude(name: str, level: int) -> float:
    """TrivialAugment's strength of an operation, in its wide space."""
    share = level / (BINS - 1)
    if name == "Posterize":
        return 8 - round(share * 6)
    if name == "Solarize":
        return 1 - share
    most = {"TranslateX": 32.0, "TranslateY": 32.0, "Rotate": 135.0}
    return share * most.get(name, 0.99)


def rand_augment(image_CHW: Tensor, ops: int, level: int, rng: np.random.Generator) -> Tensor:
    """`ops` operations drawn with replacement, all at magnitude `level`; uint8 [3, H, W]."""
    for _ in range(ops):
        name = NAMES[rng.integers(len(NAMES))]
        amount = rand_magnitude(name, level, *image_CHW.shape[-2:])
        image_CHW = _apply(image_CHW, name, amount, rng)
    return image_CHW


def trivial_augment(image_CHW: Tensor, rng: np.random.Generator) -> Tensor:
    """One operation at a drawn magnitude; uint8 [3, H, W]."""
    name = NAMES[rng.integers(len(NAMES))]
    amount = trivial_magnitude(name, int(rng.integers(BINS)))
    return _apply(image_CHW, name, amount, rng)


def _apply(image_CHW: Tensor, name: str, amount: float, rng: np.random.Generator) -> Tensor:
    if name in SIGNED and rng.random() < 0.5:
        amount = -amount
    return OPERATIONS[name](image_CHW, amount)
