"""A jersey number as a cheap camera sees it: shirt, number, folds, light, blur, noise.

All random numbers come from the generator that is given. Sizes are in shares of the image's side.
"""

from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = (
    ("font_roboto", "Roboto-Black.ttf"),
    ("font_roboto", "Roboto-Bold.ttf"),
    ("font_roboto", "Roboto-BlackItalic.ttf"),
    ("font_roboto", "Roboto-Medium.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Black.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Bold.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Semibold.ttf"),
    ("font_fredoka_one", "FredokaOne-Regular.ttf"),
)
SHIRTS = (  # RGB
    (245, 245, 240), (20, 20, 24), (190, 25, 35), (25, 50, 130), (15, 110, 60), (250, 200, 40),
    (240, 120, 20), (90, 30, 110), (100, 170, 220), (110, 20, 40), (130, 130, 135), (30, 140, 140),
)  # fmt: skip
BACKGROUNDS = ((70, 110, 60), (150, 120, 85), (95, 95, 100), (40, 45, 60), (180, 180, 185))
LEAST_CONTRAST = 90  # between number and shirt, in grey levels
GLYPH = 96  # height of the letters before they are warped, in pixels


def draw_jersey(number: str, size: int, rng: np.random.Generator) -> Image.Image:
    """A photograph of a shirt with `number` on it, `size` pixels high, 0.8 to 1 times as wide."""
    width = round(size * rng.uniform(0.8, 1.0))
    shirt, ink, edge = _colours(rng)
    scene_HWC = _shirt(size, width, shirt, edge, rng)
    fill_HW, outline_HW = _number_masks(number, size, width, rng)
    outlined = rng.random() < 0.6
    if outlined:
        scene_HWC = _blend(scene_HWC, edge, outline_HW)
    scene_HWC = _blend(scene_HWC, ink, fill_HW)
    scene_HWC *= _folds(size, width, rng)[..., None]
    return _camera(scene_HWC, rng)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shirt, number and its edge; the number stands out from the shirt in brightness."""
    palette_N3 = np.array(SHIRTS, dtype=np.float32) + rng.normal(0, 10, (len(SHIRTS), 3))
    grey_N = palette_N3 @ (0.3, 0.59, 0.11)
    shirt = rng.integers(len(SHIRTS))
    readable = np.flatnonzero(np.abs(grey_N - grey_N[shirt]) > LEAST_CONTRAST)
    ink = rng.choice(readable)
    other = np.flatnonzero(np.abs(grey_N - grey_N[ink]) > LEAST_CONTRAST)
    edge = rng.choice(other)
    return palette_N3[shirt], palette_N3[ink], palette_N3[edge]


def _shirt(
    size: int, width: int, colour: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A torso, plain or with stripes, hoops or a sash, before a background; [H, W, 3] float32."""
    y_HW, x_HW = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : width * 1j].astype(np.float32)
    scene_HWC = np.empty((size, width, 3), dtype=np.float32)
    scene_HWC[:] = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    scene_HWC += 25 * np.sin(rng.uniform(2, 9) * x_HW + rng.uniform(2, 9) * y_HW)[..., None]
    bend = 0.05 * np.sin(rng.uniform(2, 5) * y_HW + rng.uniform(0, 6))
    half = rng.uniform(0.75, 1.3) + 0.1 * y_HW * rng.uniform(-1, 1)
    torso_HW = (np.abs(x_HW + bend + rng.uniform(-0.1, 0.1)) < half).astype(np.float32)
    scene_HWC = _blend(scene_HWC, colour, torso_HW)
    # As on real shirts, the pattern is in a shade near the shirt's own: the number stands out.
    shade = colour + rng.uniform(0.15, 0.4) * (second - colour)
    pattern = rng.integers(6)
    across = (x_HW + bend, y_HW, x_HW + y_HW)[pattern % 3]
    if pattern < 2:
        stripes_HW = np.sin(across * rng.uniform(6, 14) + rng.uniform(0, 6)) > 0
        scene_HWC = _blend(scene_HWC, shade, torso_HW * stripes_HW)
    elif pattern == 2:
        sash_HW = np.abs(across - rng.uniform(-0.5, 0.5)) < rng.uniform(0.2, 0.4)
        scene_HWC = _blend(scene_HWC, shade, torso_HW * sash_HW)
    return scene_HWC


def _number_masks(
    number: str, size: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Where the warped number and its outline are: two [H, W] float32 in 0..1."""
    package, file = FONTS[rng.integers(len(FONTS))]
    font = _font(package, file)
    stroke = int(rng.integers(3, 8))
    left, top, right, bottom = font.getbbox(number, stroke_width=stroke)
    box = (round(right - left) + 2, round(bottom - top) + 2)
    masks = Image.new("RGB", box)
    draw = ImageDraw.Draw(masks)
    place = (1 - left, 1 - top)
    draw.text(place, number, (0, 255, 0), font, stroke_width=stroke, stroke_fill=(0, 255, 0))
    draw.text(place, number, (255, 255, 0), font)
    height = size * rng.uniform(0.42, 0.66)
    wide = height * box[0] / box[1] * rng.uniform(0.75, 1.15)
    wide = min(wide, 0.92 * width)
    corners_42 = np.array([(-wide, -height), (wide, -height), (wide, height), (-wide, height)]) / 2
    angle = np.radians(rng.normal(0, 7))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners_42 = corners_42 @ turn + rng.uniform(-0.06, 0.06, (4, 2)) * size
    corners_42 += np.array([width, size]) * (0.5 + rng.uniform(-0.06, 0.06, 2))
    warped = masks.transform(
        (width, size),
        Image.Transform.PERSPECTIVE,
        _perspective(corners_42, box),
        Image.Resampling.BILINEAR,
    )
    masks_HWC = np.asarray(warped, dtype=np.float32) / 255
    return masks_HWC[..., 0], masks_HWC[..., 1]


@lru_cache(maxsize=len(FONTS))
def _font(package: str, file: str) -> ImageFont.FreeTypeFont:
    with resources.as_file(resources.files(package) / "files" / file) as path:
        return ImageFont.truetype(str(Path(path)), GLYPH)


def _perspective(corners_42: np.ndarray, box: tuple[int, int]) -> list[float]:
    """The eight numbers with which PIL maps the four corners in the image onto those of `box`."""
    right, bottom = box
    targets = ((0, 0), (right, 0), (right, bottom), (0, bottom))
    rows, values = [], []
    for (x, y), (u, v) in zip(corners_42, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values)).tolist()


def _folds(size: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Light over the cloth: a slope and three waves; [H, W] float32 around 1."""
    # The waves are long, so few points suffice.
    y_HW, x_HW = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
    light_HW = 1 + rng.uniform(-0.25, 0.25) * x_HW + rng.uniform(-0.25, 0.25) * y_HW
    for _ in range(3):
        angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(2, 12), rng.uniform(0, 6.28)
        along_HW = np.cos(angle) * x_HW + np.sin(angle) * y_HW
        light_HW += rng.uniform(0.0, 0.12) * np.sin(waves * along_HW + phase)
    light = Image.fromarray(light_HW.astype(np.float32))
    return np.asarray(light.resize((width, size), Image.Resampling.BILINEAR))


def _blend(scene_HWC: np.ndarray, colour: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    return scene_HWC + mask_HW[..., None] * (np.asarray(colour, dtype=np.float32) - scene_HWC)


def _camera(scene_HWC: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The scene with exposure and tint, lost resolution, blur of lens or motion, sensor noise."""
    scene_HWC = scene_HWC * rng.uniform(0.6, 1.15) * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    image = Image.fromarray(np.clip(scene_HWC, 0, 255).astype(np.uint8))
    width, height = image.size
    if rng.random() < 0.6:
        small = rng.uniform(0.25, 0.8)
        image = image.resize((round(width * small), round(height * small)), Image.Resampling.BOX)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.016) * height))
    if rng.random() < 0.3:
        image = _motion_blur(image, rng)
    noisy_HWC = rng.standard_normal((height, width, 3), dtype=np.float32) * rng.uniform(0, 14)
    noisy_HWC += np.asarray(image)
    return Image.fromarray(np.clip(noisy_HWC, 0, 255, out=noisy_HWC).astype(np.uint8))


def _motion_blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image blurred along a row, a column or a diagonal of five pixels."""
    kernel_55 = (np.eye(5), np.eye(5)[::-1], np.eye(5)[[2] * 5].T, np.eye(5)[[2] * 5])
    flat = kernel_55[rng.integers(4)].ravel().tolist()
    return image.filter(ImageFilter.Kernel((5, 5), flat))
