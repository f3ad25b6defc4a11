"""The part of a JPEG that a crop needs is what the whole image has there, whether simplejpeg
decodes it or jpeg_region.c, which is compiled for the tests."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clf.config import AugmentConfig, DataConfig
from clf.data import jpeg, jpeg_build
from clf.data.decode import decode, open_picture
from clf.data.jpeg import ORIENTATION, scale_for
from clf.data.reader import DataError
from clf.data.transforms import EvalTransform, TrainTransform


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Any:
    """The library as its source is now."""
    target = tmp_path_factory.mktemp("jpeg") / "jpeg_region.so"
    lacking = jpeg_build.build(target)
    if lacking is not None:
        pytest.skip(lacking)
    return jpeg.load(target)


@pytest.fixture(autouse=True, params=["simplejpeg", "compiled"])
def decoder(request, monkeypatch) -> str:
    """Which of the two decodes."""
    library = request.getfixturevalue("compiled") if request.param == "compiled" else None
    monkeypatch.setattr(jpeg, "LIBRARY", library)
    return request.param


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


KINDS = {
    "4:2:0": {},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "fine": {"quality": 98},
    "coarse": {"quality": 20},
    "own Huffman codes": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 5},
    "restarts by row": {"restart_marker_rows": 1, "subsampling": "4:4:4"},
    "grey": {"mode": "L"},
    "RGB": {"keep_rgb": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eighths", [8, 4, 2, 1])
def test_a_region_has_the_very_pixels_of_the_whole_image(decoder, monkeypatch, kind, eighths):
    options = dict(KINDS[kind])
    data = encoded(photograph(150, 231).convert(options.pop("mode", "RGB")), **options)
    picture = open_picture(data)
    for box in BOXES:
        ours_HWC = picture.jpeg._decode(box, eighths)
        with monkeypatch.context() as context:
            context.setattr(jpeg, "LIBRARY", None)
            np.testing.assert_array_equal(ours_HWC, picture.jpeg._decode(box, eighths))
    if decoder == "compiled":  # and it is the region that was decoded
        monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", None)
        picture.crop(BOXES[0], 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_is_pils_within_a_few_grey_levels(kind):
    options = dict(KINDS[kind])
    data = encoded(photograph(150, 231).convert(options.pop("mode", "RGB")), **options)
    with Image.open(io.BytesIO(data)) as image:
        theirs_HWC = np.asarray(image.convert("RGB")).astype(int)
    for top, left, height, width in BOXES:
        ours_HWC = open_picture(data).crop((top, left, height, width), 0)
        part_HWC = theirs_HWC[top : top + height, left : left + width]
        assert np.abs(ours_HWC - part_HWC).mean() < 3


def test_cmyk_is_pils():
    data = encoded(photograph(150, 231).convert("CMYK"))
    np.testing.assert_array_equal(
        open_picture(data).crop((17, 33, 51, 77), 0), decode(data)[17:68, 33:110]
    )


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


def damaged(count: int) -> list[bytes]:
    """Files with a few bytes changed, or cut off, or both."""
    rng = np.random.default_rng(0)
    kinds = ({}, {"optimize": True}, {"restart_marker_blocks": 3}, {"progressive": True})
    whole = [encoded(photograph(90, 110), **kind) for kind in kinds]
    files = []
    for number in range(count):
        data = bytearray(whole[number % len(whole)])
        start = 0 if number % 3 else 150  # in the headers too, or not
        for place in rng.integers(start, 700 if number % 2 else len(data), rng.integers(1, 5)):
            data[place] = rng.integers(256)
        files.append(bytes(data[: rng.integers(len(data))] if number % 8 == 0 else data))
    return files


def whole(data: bytes) -> np.ndarray | None:
    """All of an image, or None where it is refused."""
    try:
        picture = open_picture(data)
        return picture.crop((0, 0, picture.height, picture.width), 0).astype(int)
    except DataError:
        return None


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, of broken EXIF
def test_damaged_files_are_taken_or_refused_alike_and_break_nothing(monkeypatch):
    files = damaged(400)
    ours = [whole(data) for data in files]
    monkeypatch.setattr(jpeg, "LIBRARY", None)
    theirs = [whole(data) for data in files]
    assert [one is None for one in ours] == [one is None for one in theirs]
    taken = [pair for pair in zip(ours, theirs, strict=True) if pair[0] is not None]
    assert 100 < len(taken) < 300
    # simplejpeg leaves a file to PIL for damage that comes after the last row.
    assert max(np.abs(one - other).mean() for one, other in taken) < 3


def test_threads_that_decode_at_once_disturb_nobody():
    datas = [encoded(photograph(90, 110), **kind) for kind in KINDS.values() if "mode" not in kind]
    jobs = [(data, box) for data in datas for box in ((0, 0, 90, 110), (17, 33, 51, 66))] * 20
    expected = [open_picture(data).crop(box, 0) for data, box in jobs[: 2 * len(datas)]] * 20
    with ThreadPoolExecutor(4) as pool:
        crops = list(pool.map(lambda job: open_picture(job[0]).crop(job[1], 0), jobs))
    assert all(map(np.array_equal, crops, expected))


# --- building ---


def test_where_nothing_can_be_compiled_it_says_in_a_line_what_is_lacking(tmp_path, monkeypatch):
    said = "x.c:1: fatal error: jpeglib.h: No such file"
    (tmp_path / "cc").write_text(f"#!/bin/sh\necho '{said}' >&2; exit 1")
    (tmp_path / "cc").chmod(0o755)
    for compiler, reason in {
        str(tmp_path / "cc"): "fatal error: jpeglib.h: No such file",
        str(tmp_path / "none"): "none could not be run",
    }.items():
        monkeypatch.setenv("CC", compiler)
        lacking = jpeg_build.build(tmp_path / "a.so")
        assert reason in lacking
        assert "apt-get install gcc libc6-dev libjpeg62-turbo-dev" in lacking
        assert "\n" not in lacking
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert jpeg_build.build(tmp_path / "a.so").startswith("no C compiler found: JPEGs will be")
    assert [path.name for path in tmp_path.iterdir()] == ["cc"]


def test_a_library_that_cannot_be_loaded_is_named_and_done_without(tmp_path, monkeypatch):
    (tmp_path / "jpeg_region.so").write_bytes(b"of another machine")
    monkeypatch.setattr(jpeg, "__file__", str(tmp_path / "jpeg.py"))
    with pytest.warns(UserWarning, match=r"jpeg_region.so cannot be loaded .*python -m clf.data"):
        assert jpeg._library() is None
