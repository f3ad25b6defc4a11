"""The part of a JPEG that a crop needs is what the whole image has there."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clf.config import AugmentConfig, DataConfig
from clf.data.decode import decode, open_picture
from clf.data.jpeg import ORIENTATION, scale_for
from clf.data.reader import DataError
from clf.data.transforms import EvalTransform, TrainTransform


def photograph(height: int, width: int) -> Image.Image:
    """Smooth colours, as photographs have and JPEG is made for, with some grain."""
    rng = np.random.default_rng(0)
    coarse_HWC = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse_HWC).resize((width, height), Image.Resampling.BICUBIC)
    grain_HW1 = rng.normal(0, 4, (height, width, 1))
    return Image.fromarray((np.asarray(smooth) + grain_HW1).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, orientation: int = 1, **options: Any) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(file, "JPEG", **{"quality": 90, "exif": exif} | options)
    return file.getvalue()


BOXES = [(0, 0, 150, 231), (0, 0, 1, 1), (149, 230, 1, 1), (17, 33, 51, 77), (149, 0, 1, 231)]
BOXES += [(0, 230, 150, 1), (16, 16, 16, 16), (15, 17, 33, 15), (100, 200, 50, 31)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_crop_is_where_it_is_in_the_upright_image(orientation):
    data = encoded(photograph(150, 231), orientation)
    whole_HWC, picture = decode(data), open_picture(data)
    assert (picture.height, picture.width) == whole_HWC.shape[:2]
    for box in BOXES:
        top, left, height, width = box if orientation < 5 else [box[at] for at in (1, 0, 3, 2)]
        expected_HWC = whole_HWC[top : top + height, left : left + width]
        np.testing.assert_array_equal(picture.crop((top, left, height, width), 0), expected_HWC)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("eighths", [1, 2, 4])
def test_a_crop_at_a_smaller_scale_shows_the_same_part(orientation, eighths):
    data = encoded(photograph(640, 480), orientation)
    picture, whole_HWC = open_picture(data), decode(data).astype(float)
    step = 8 // eighths
    for top, left, height, width in ((0, 0, 480, 480), (96, 160, 320, 256), (472, 8, 8, 304)):
        size = min(height, width) // step
        ours_HWC = picture.crop((top, left, height, width), size)
        part_HWC = whole_HWC[top : top + height, left : left + width]
        blocks = part_HWC.reshape(height // step, step, width // step, step, 3)
        assert ours_HWC.shape == (height // step, width // step, 3)
        assert np.abs(ours_HWC - blocks.mean(axis=(1, 3))).mean() < 4


def test_the_scale_is_the_smallest_that_leaves_the_crop_enough_pixels():
    box = (5, 7, 1000, 897)
    sizes = {0: 8, 1: 1, 112: 1, 113: 2, 224: 2, 225: 4, 448: 4, 449: 8, 897: 8, 5000: 8}
    assert {size: scale_for(box, size) for size in sizes} == sizes
    picture = open_picture(encoded(photograph(1200, 1000)))
    for size in range(1, 500, 31):
        for box in ((5, 7, 1000, 897), (1, 3, 499, 501), (1199, 3, 1, 400)):
            assert min(picture.crop(box, size).shape[:2]) >= min(size, *box[2:])


def test_training_and_evaluation_see_in_a_large_jpeg_what_torchvision_sees():
    data = encoded(photograph(750, 1000), quality=95)
    cfg = DataConfig(image_size=40, augment=AugmentConfig(horizontal_flip=0.0))
    with Image.open(io.BytesIO(data)) as image:
        by_pil = np.array(image)

    class Whole:
        height, width = by_pil.shape[:2]

        def crop(self, box, size):
            return by_pil[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]

    for transform in (TrainTransform(cfg), EvalTransform(cfg)):
        for seed in range(5):
            rngs = np.random.default_rng(seed), np.random.default_rng(seed)
            ours = transform(open_picture(data), rngs[0]).float()
            assert (ours - transform(Whole(), rngs[1]).float()).abs().mean() < 3
            assert rngs[0].random() == rngs[1].random()  # as many numbers have been drawn


# --- broken files ---


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_though_the_crop_lies_before_the_end(
    tmp_path: Path, share: float, progressive: bool
):
    path = tmp_path / "half.jpg"
    data = encoded(photograph(300, 400), progressive=progressive)
    path.write_bytes(data[: int(len(data) * share)])
    picture = open_picture(str(path))
    assert (picture.height, picture.width) == (300, 400)
    for _ in range(2):
        with pytest.raises(
            DataError, match=rf"^{path}: cannot be read as an image \(OSError: .*; replace it"
        ):
            picture.crop((0, 0, 40, 40), 0)


def test_rows_that_a_header_promises_and_the_file_lacks_are_as_pil_has_them():
    data = encoded(photograph(64, 64))
    place = data.index(b"\xff\xc0") + 5
    taller = data[:place] + (640).to_bytes(2, "big") + data[place + 2 :]
    with Image.open(io.BytesIO(taller)) as image:
        by_pil = np.array(image)
    picture = open_picture(taller)
    assert (picture.height, picture.width) == by_pil.shape[:2] == (640, 64)
    for top in (300, 600):
        np.testing.assert_array_equal(picture.crop((top, 0, 40, 40), 0), by_pil[top:][:40, :40])
