"""Decoded images equal PIL's, in every format, mode and orientation; broken files are named."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clf.data.decode import decode
from clf.data.jpeg import ORIENTATION
from clf.data.reader import DataError


def by_pil(path: Path) -> np.ndarray:
    """The reference: PIL's pixels, upright, as RGB."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def assert_like_pil(path: Path) -> None:
    """JPEGs within a few grey levels (libjpeg's fast transform, plain upsampling of colour)."""
    ours, theirs = decode(str(path)), by_pil(path)
    assert ours.dtype == np.uint8
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < 3
    assert np.percentile(difference, 99) <= 16


# --- formats ---


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_pils_within_a_few_grey_levels(tmp_path, picture, subsampling, progressive):
    options = {"quality": 92, "subsampling": subsampling, "progressive": progressive}
    assert_like_pil(saved(tmp_path / "a.jpg", picture, **options))


def test_grey_jpeg_becomes_three_equal_channels(tmp_path, picture):
    path = saved(tmp_path / "a.jpg", picture.convert("L"), quality=92)
    assert_like_pil(path)
    image_HWC = decode(str(path))
    assert (image_HWC == image_HWC[..., :1]).all()


def test_cmyk_jpeg_is_pils(tmp_path, picture):
    path = saved(tmp_path / "a.jpg", picture.convert("CMYK"), quality=92)
    np.testing.assert_array_equal(decode(str(path)), by_pil(path))


@pytest.mark.parametrize(
    ("ending", "mode", "options"),
    [
        ("png", "RGB", {}),
        ("png", "L", {}),
        ("png", "LA", {}),
        ("png", "RGBA", {}),
        ("png", "P", {}),
        ("png", "1", {}),
        ("bmp", "RGB", {}),
        ("bmp", "L", {}),
        ("webp", "RGB", {"quality": 80}),
        ("webp", "RGBA", {"lossless": True}),
        ("tif", "RGB", {}),
        ("tif", "CMYK", {}),
        ("ppm", "RGB", {}),
        ("pgm", "L", {}),
    ],
)
def test_other_formats_and_modes_are_pils_own_pixels(tmp_path, picture, ending, mode, options):
    path = saved(tmp_path / f"a.{ending}", picture.convert(mode), **options)
    np.testing.assert_array_equal(decode(str(path)), by_pil(path))


def test_a_palette_with_transparency_keeps_its_colours_and_warns_of_nothing(tmp_path, picture):
    image = picture.convert("P")
    path = saved(tmp_path / "a.png", image, transparency=bytes([255] * 255 + [254]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = decode(str(path))
    np.testing.assert_allclose(ours, np.asarray(image.convert("RGB")), atol=1)


def test_the_content_counts_and_not_the_ending(tmp_path, picture):
    path = saved(tmp_path / "a.jpg", picture, format="PNG")
    np.testing.assert_array_equal(decode(str(path)), np.asarray(picture))


# --- orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_photographs_are_turned_upright_as_pil_turns_them(tmp_path, picture, orientation, ending):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / f"a.{ending}", picture, exif=exif, **_quality(ending))
    assert_like_pil(path)
    assert decode(str(path)).shape == ((52, 37, 3) if orientation > 4 else (37, 52, 3))


def _quality(ending: str) -> dict:
    return {"quality": 95} if ending == "jpg" else {}


def test_an_orientation_that_exif_does_not_know_turns_nothing(tmp_path, picture):
    exif = Image.Exif()
    exif[ORIENTATION] = 42
    assert_like_pil(saved(tmp_path / "a.jpg", picture, exif=exif, quality=95))


def test_exif_behind_other_segments_and_fill_bytes_is_found(tmp_path, picture):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path / "a.jpg", picture, exif=exif, quality=95, comment=b"x" * 300)
    data = path.read_bytes()
    comment = b"\xff\xff\xff\xfe" + (2 + 999).to_bytes(2, "big") + b"c" * 999
    path.write_bytes(data[:2] + comment + data[2:])
    assert_like_pil(path)


def test_orientation_in_xmp_counts_as_in_pil(tmp_path, picture):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    path = saved(tmp_path / "a.jpg", picture, xmp=xmp, quality=95)
    assert by_pil(path).shape == (52, 37, 3)
    assert_like_pil(path)


# --- decoding at a fraction of the size ---


def test_a_large_jpeg_is_decoded_small_but_never_below_what_is_asked(tmp_path, picture):
    large = picture.resize((640, 480), Image.Resampling.BICUBIC)
    path = str(saved(tmp_path / "a.jpg", large, quality=95))
    half = decode(path, short_side=200)
    assert half.shape == (240, 320, 3)
    theirs = np.asarray(large.resize((320, 240), Image.Resampling.BOX))
    assert np.abs(half.astype(int) - theirs).mean() < 3
    for short_side in (0, 241, 480, 1000):
        assert decode(path, short_side).shape == (480, 640, 3)
    for short_side in (1, 60, 61, 119, 120, 240):
        assert min(decode(path, short_side).shape[:2]) >= short_side


# --- broken files ---


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_truncated_file_is_named_and_not_trained_on_half_grey(tmp_path, picture, ending):
    path = saved(tmp_path / f"half.{ending}", picture)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(
        DataError, match=r"half\.\w+: cannot be read as an image .*; replace it, take"
    ):
        decode(str(path))


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(
        DataError, match=rf"^{tmp_path}/empty.jpg: the file is empty; replace it, take"
    ):
        decode(str(tmp_path / "empty.jpg"))


@pytest.mark.parametrize(
    "data", [b"<html>404</html>", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\x00", b"\x00"]
)
def test_a_file_that_is_not_an_image_is_named(tmp_path, data):
    (tmp_path / "page.jpg").write_bytes(data)
    with pytest.raises(DataError, match=rf"^{tmp_path}/page.jpg: cannot be read as an image"):
        decode(str(tmp_path / "page.jpg"))


def test_a_file_that_is_gone_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(DataError, match=rf"^{path}: cannot be read as an image \(\w+Error: "):
            decode(str(path))


def test_the_message_is_the_same_in_every_run(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    texts = set()
    for _ in range(3):
        with pytest.raises(DataError) as caught:
            decode(str(tmp_path / "a.png"))
        texts.add(str(caught.value))
        _ = [io.BytesIO() for _ in range(10)]
    assert len({text.split("<file")[0] for text in texts}) == 1


# --- images in memory ---


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_an_image_in_memory_is_decoded_as_its_file(tmp_path, picture, ending):
    path = saved(tmp_path / f"a.{ending}", picture)
    np.testing.assert_array_equal(decode(path.read_bytes()), decode(str(path)))


def test_a_broken_image_in_memory_is_named_as_asked():
    with pytest.raises(DataError, match=r"^image 7 of the val split: cannot be read as an image"):
        decode(b"no image", 0, "image 7 of the val split")
    with pytest.raises(DataError, match=r"^an image in memory: the file is empty"):
        decode(b"")
