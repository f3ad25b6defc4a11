"""Images as people have them look as a person sees them. The right values are Pillow's own, or
computed by hand; the files that Pillow cannot write are written here byte by byte."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from clf.config import DataConfig
from clf.data.decode import Look, decode
from clf.data.index import survey
from clf.data.jpeg import ORIENTATION
from clf.data.reader import DataError

RAMP = np.arange(12).reshape(3, 4)


def grey(values_HW: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values_HW).astype(np.uint8)[..., None], 3, axis=2)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values_HWK: np.ndarray, photometric: int, order: str = "<", **tags: int) -> bytes:
    """An uncompressed TIFF of one strip, of any type of numbers."""
    values_HWK = values_HWK.astype(values_HWK.dtype.newbyteorder(order))
    height, width, channels = values_HWK.shape
    bits, kind = values_HWK.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values_HWK.dtype.kind]
    pixels = values_HWK.tobytes()
    start = 8 + 8 * channels  # of the pixels, behind the list of bits
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, 8 if channels > 2 else bits),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, start),
        (274, 3, 1, tags.get("orientation", 1)),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
        (339, 3, 1, kind),
    ]
    directory = struct.pack(f"{order}H", len(entries))
    for tag, size, count, value in entries:
        is_short = size == 3 and count == 1
        directory += struct.pack(f"{order}HHI", tag, size, count)
        directory += struct.pack(f"{order}{'HH' if is_short else 'I'}", value, *[0] * is_short)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start + len(pixels))
    listed = struct.pack(f"{order}{channels}H", *[bits] * channels).ljust(8 * channels, b"\0")
    return head + listed + pixels + directory + bytes(4)


def png(values_HWK: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits a channel, K of grey, grey and alpha, RGB, RGBA."""
    height, width, channels = values_HWK.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWK)
    header = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


# --- more than 8 bits ---

RANGES = [  # numbers, and their levels of grey
    (np.array([[0, 100, 255]], np.uint16), [0, 100, 255]),
    (np.array([[0, 1, 3]], np.uint16), [0, 85, 255]),  # black before
    (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),
    (np.array([[0, 8000, 16383]], np.uint16), [0, 125, 255]),
    (np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
    (np.array([[29000, 29500, 30000]], np.uint16), [0, 128, 255]),  # a thermal camera
    (np.array([[0, 100, 250]], np.uint32), [0, 100, 250]),
    (np.array([[0, 2**30, 2**31 - 1]], np.uint32), [0, 128, 255]),
    (np.array([[0, 2**31, 2**32 - 1]], np.uint32), [0, 128, 255]),
    (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
    (np.array([[-100, 0, 100]], np.int16), [0, 128, 255]),
    (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
    (np.array([[0.2, 0.4, 0.6]], np.float32), [51, 102, 153]),  # not stretched
    (np.array([[0.0, 100.0, 250.0]], np.float32), [0, 100, 250]),
    (np.array([[0.0, 0.0001, 0.0002]], np.float32), [0, 128, 255]),
    (np.array([[-3.0, 0.0, 3.0]], np.float32), [0, 128, 255]),
    (np.array([[0.0, 500.0, 1000.0]], np.float32), [0, 128, 255]),
    (np.array([[0.0, 0.6, 1.2]], np.float32), [0, 128, 255]),
    (np.array([[0.0, np.nan, np.inf, 1.0]], np.float32), [0, 0, 0, 255]),
]


@pytest.mark.parametrize(("values_HW", "expected"), RANGES, ids=lambda one: str(one)[:30])
def test_numbers_of_any_range_are_neither_black_nor_clipped(values_HW, expected):
    order = "<" if values_HW.dtype == np.uint32 else ">"
    data = tiff(values_HW[..., None], 1, order)
    np.testing.assert_array_equal(decode(data), grey(np.array([expected])))


def test_a_tiff_in_which_0_is_white_is_not_a_negative():
    values_HW = np.array([[0, 1000, 4095]], np.uint16)
    expected = grey(np.array([[255, 193, 0]]))  # 255 - 1000 * 255 / 4095
    np.testing.assert_array_equal(decode(tiff(values_HW[..., None], 0)), expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_tiff_that_pillow_wrote_reads_alike_compressed_or_not(dtype):
    image = Image.fromarray((RAMP * 20).astype(dtype))
    for compression in (None, "tiff_lzw"):
        data = encoded(image, "TIFF", compression=compression)
        np.testing.assert_array_equal(decode(data), grey(RAMP * 20))


def test_sixteen_bit_grey_png_of_a_12_bit_camera():
    values_HW = RAMP * 372  # up to 4092
    expected = grey(np.rint(values_HW * (255 / 4095)))
    np.testing.assert_array_equal(decode(png(values_HW[..., None])), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colours_of_a_12_bit_camera_are_not_black(order):
    values_HWC = (np.arange(36).reshape(3, 4, 3) * 117).astype(np.uint16)  # up to 4095
    expected = np.rint(values_HWC * (255 / 4095)).astype(np.uint8)
    np.testing.assert_array_equal(decode(tiff(values_HWC, 2, order)), expected)
    np.testing.assert_array_equal(decode(png(values_HWC)), expected)
    opaque_HWK = np.dstack([values_HWC, np.full((3, 4), 65535)])
    np.testing.assert_array_equal(decode(png(opaque_HWK)), expected)


def test_sixteen_bit_colours_of_the_whole_range_are_pillows_within_a_level():
    values_HWC = np.linspace(0, 65535, 36).astype(np.uint16).reshape(3, 4, 3)
    for data in (png(values_HWC), tiff(values_HWC, 2)):
        with Image.open(io.BytesIO(data)) as image:
            theirs = np.asarray(image.convert("RGB"))
        np.testing.assert_allclose(decode(data).astype(int), theirs, atol=1)


def test_sixteen_bit_grey_with_alpha_and_with_a_transparent_level():
    values_HWK = np.array([[[4095, 65535], [4095, 0], [0, 65535]]], np.uint16)
    black = Look(background=(0, 0, 0))
    np.testing.assert_array_equal(decode(png(values_HWK), look=black), grey([[255, 0, 0]]))
    declared = png(np.array([[[4095], [7], [0]]]), (b"tRNS", struct.pack(">H", 7)))
    np.testing.assert_array_equal(decode(declared), grey([[255, 255, 0]]))
    colours = png(
        np.array([[[4095] * 3, [7] * 3, [0] * 3]]), (b"tRNS", struct.pack(">HHH", 7, 7, 7))
    )
    np.testing.assert_array_equal(decode(colours), grey([[255, 255, 0]]))


def test_a_white_level_of_ones_own_is_the_same_for_dark_and_bright_images():
    look = Look(white_level=4095)
    for highest in (50, 900, 4095):
        values_HW = np.array([[0, highest]], np.uint16)
        expected = grey(np.rint(values_HW * (255 / 4095)))
        np.testing.assert_array_equal(decode(tiff(values_HW[..., None], 1), look=look), expected)


def test_portable_float_maps_grey_and_coloured():
    levels_HW = np.array([[0, 51, 102], [153, 204, 255]])
    values = (levels_HW[::-1] / 255).astype("<f4")  # the last row comes first
    data = b"Pf\n3 2\n-1.0\n" + values.tobytes()
    np.testing.assert_array_equal(decode(data), grey(levels_HW))
    for scale, order in ((b"-1", "<"), (b"1", ">")):
        colours = np.repeat(values[..., None], 3, axis=2) * [1, 0.5, 0]
        data = b"PF\n3 2\n" + scale + b"\n" + colours.astype(f"{order}f4").tobytes()
        expected = np.rint(levels_HW[..., None] * [1, 0.5, 0] - [0, 1e-6, 0])
        np.testing.assert_allclose(decode(data).astype(int), expected, atol=1)
        with pytest.raises(DataError, match="^x.pfm: cannot be read as an image .*71 bytes of 72"):
            decode(data[:-1], 0, "x.pfm")


# --- modes ---


def test_one_bit_images_are_black_and_white():
    image = Image.fromarray(np.array([[0, 255, 0, 255, 255]], np.uint8)).convert("1")
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        np.testing.assert_array_equal(decode(encoded(image, kind)), grey([[0, 255, 0, 255, 255]]))


def composited(colour: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    exact = colour * (alpha / 255.0) + background * (1 - alpha / 255.0)
    return np.floor(exact + 0.5)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_show_the_background_and_not_the_black_under_them(kind, background):
    rgba_HWK = np.zeros((2, 3, 4), np.uint8)
    rgba_HWK[0, :, :3], rgba_HWK[:, :, 3] = (200, 100, 50), [[255, 128, 1], [255, 64, 0]]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(rgba_HWK), kind, **options)
    expected = composited(rgba_HWK[..., :3], rgba_HWK[..., 3:], np.array(background))
    ours = decode(data, look=Look(background)).astype(int)
    np.testing.assert_allclose(ours, expected, atol=1)
    np.testing.assert_array_equal(ours[1, 2], background)


def test_grey_with_alpha_palette_with_transparency_and_declared_colours():
    la_HWK = np.array([[[0, 255], [0, 0], [100, 128]]], np.uint8)
    by_hand = grey([[0, 255, 177]])  # 100 * 128 / 255 + 255 * 127 / 255
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(la_HWK, "LA"), "PNG")), by_hand)
    palette = Image.new("P", (3, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partly = decode(encoded(palette, "PNG", transparency=bytes([0, 255, 255])))
        one = decode(encoded(palette, "GIF", transparency=1))
    np.testing.assert_array_equal(partly, [[[255] * 3, [10, 20, 30], [40, 50, 60]]])
    np.testing.assert_array_equal(one, [[[0] * 3, [255] * 3, [40, 50, 60]]])
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    np.testing.assert_array_equal(
        decode(encoded(rgb, "PNG", transparency=(1, 2, 3))), [[[255] * 3, [4, 5, 6]]]
    )


def test_cmyk_jpegs_are_not_negatives():
    """Adobe's programs and Pillow store CMYK inverted."""
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    data = encoded(ink, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(decode(data).astype(int) - [0, 255, 255]).max() <= 3
    np.testing.assert_array_equal(decode(encoded(ink, "TIFF")), np.full((16, 16, 3), [0, 255, 255]))


# --- files of several images, endings, progressive files ---


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (16, 8), colour)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_the_first_of_several_images_is_taken(kind, tmp_path):
    options = {"lossless": True} if kind == "WEBP" else {}
    file = tmp_path / "a.jpg"  # the ending is wrong for most
    plain((200, 30, 30)).save(
        file, kind, save_all=True, append_images=[plain((30, 200, 30))], **options
    )
    assert np.abs(decode(str(file)).astype(int) - [200, 30, 30]).max() <= 6


def test_a_progressive_jpeg_is_its_baseline(tmp_path):
    picture = plain((90, 120, 200)).resize((64, 48))
    base, progressive = (encoded(picture, "JPEG", progressive=p) for p in (False, True))
    np.testing.assert_allclose(decode(progressive).astype(int), decode(base).astype(int), atol=2)


# --- EXIF ---

CORNERS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], np.uint8)
UPRIGHT = {  # the names of the corners r, g / b, w of the file, as they are to be seen
    1: "rgbw",
    2: "grwb",
    3: "wbgr",
    4: "bwrg",
    5: "rbgw",
    6: "brwg",
    7: "wgbr",
    8: "gwrb",
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_as_the_standard_says(kind, orientation):
    large = Image.fromarray(CORNERS.repeat(16, 0).repeat(16, 1))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    seen = decode(encoded(large, kind, exif=exif, **options))[8::16, 8::16].astype(int)
    names = {"r": [250, 0, 0], "g": [0, 250, 0], "b": [0, 0, 250], "w": [250, 250, 250]}
    expected = np.array([names[name] for name in UPRIGHT[orientation]]).reshape(2, 2, 3)
    assert np.abs(seen - expected).max() <= 8


BROKEN_EXIF = [
    b"",
    b"Exif\0\0",
    b"Exif\0\0garbage",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20,
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x09\0\0\0\xf0\xff\0\0",  # text, beyond the end
    b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta",
]


@pytest.mark.parametrize("block", BROKEN_EXIF)
def test_a_picture_is_trained_on_though_its_exif_is_broken(block):
    picture = plain((90, 120, 200))
    data = encoded(picture, "JPEG", quality=95)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert np.abs(decode(data).astype(int) - [90, 120, 200]).max() <= 4
    for kind in ("PNG", "WEBP"):
        data = encoded(picture, kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))
        np.testing.assert_array_equal(decode(data), np.asarray(picture))


# --- colour profiles ---

# Columns of red, green and blue in XYZ relative to D50, as their profiles have them.
ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
SRGB = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def profile(kind: bytes, gamma: float, columns: np.ndarray | None = None) -> bytes:
    """A version 2 ICC profile of a screen: a power for each channel, and the primaries."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)
    tags = {b"wtpt": white}
    if columns is None:
        tags[b"kTRC"] = curve
    else:
        for name, column in zip(b"rgb", columns.T, strict=True):
            tags[bytes([name]) + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*column)
            tags[bytes([name]) + b"TRC"] = curve
    place, table, bodies = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", place + len(bodies), len(body))
        bodies += body
    header = struct.pack(">I4sI", place + len(bodies), b"none", 0x02100000) + b"mntr" + kind
    header += b"XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return header.ljust(128, b"\0") + table + bodies


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    low = linear <= 0.0031308
    return 255 * np.where(low, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_adobe_rgb_is_converted_to_srgb(kind):
    colour = np.array([180, 120, 90])
    expected = encode_srgb(np.linalg.inv(SRGB) @ ADOBE_RGB @ (colour / 255) ** 2.2)
    assert np.abs(expected - colour).max() > 10
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 97}}.get(kind, {})
    adobe = profile(b"RGB ", 2.2, ADOBE_RGB)
    data = encoded(plain(tuple(colour)), kind, icc_profile=adobe, **options)
    assert np.abs(decode(data) - expected).max() <= (3 if kind == "JPEG" else 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_of_another_gamma_is_converted(kind):
    image = Image.new("L", (16, 16), 64)
    data = encoded(image, kind, icc_profile=profile(b"GRAY", 1.0))
    assert np.abs(decode(data) - encode_srgb(np.array(64 / 255))).max() <= 2


def test_srgb_itself_and_broken_profiles_change_no_pixel():
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for block in (own, b"no profile", own[:200], profile(b"GRAY", 1.0), bytes(3000)):
        np.testing.assert_array_equal(
            decode(encoded(picture, "PNG", icc_profile=block)), np.asarray(picture)
        )
        plain_jpeg, tagged = encoded(picture, "JPEG"), encoded(picture, "JPEG", icc_profile=block)
        np.testing.assert_array_equal(decode(tagged), decode(plain_jpeg))


def test_a_profile_in_several_parts_is_joined():
    large = profile(b"RGB ", 2.2, ADOBE_RGB) + bytes(70_000)
    large = struct.pack(">I", len(large)) + large[4:]
    colour = np.array([180, 120, 90])
    expected = encode_srgb(np.linalg.inv(SRGB) @ ADOBE_RGB @ (colour / 255) ** 2.2)
    data = encoded(plain(tuple(colour)), "JPEG", icc_profile=large, quality=97)
    assert data.count(b"ICC_PROFILE") == 2
    assert np.abs(decode(data) - expected).max() <= 3


def test_transparency_and_a_profile_together():
    rgba = Image.new("RGBA", (4, 4), (180, 120, 90, 0))
    data = encoded(rgba, "PNG", icc_profile=profile(b"RGB ", 2.2, ADOBE_RGB))
    np.testing.assert_array_equal(decode(data), np.full((4, 4, 3), 255))


def test_a_background_that_is_no_colour_is_named(tmp_path: Path):
    from clf.config import ConfigError
    from clf.plan import compose

    with pytest.raises(ConfigError, match=r"data.background=beidge: is no colour; give a name of"):
        compose(["data.background=beidge", "gpus=1"])
    cfg = compose(['data.background="#7c7468"', "gpus=1", "data.white_level=4095"])
    assert Look.of(cfg.data) == Look((124, 116, 104), 4095.0)


# --- classes whose images show nothing ---


def test_a_class_of_nothing_but_one_colour_is_noted_and_one_such_image_is_not(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name in ("black", "some", "fine"):
        (tmp_path / name).mkdir()
        for number in range(20):
            empty = name == "black" or (name == "some" and number < 3)
            pixels_HWC = np.zeros((8, 8, 3), np.uint8) if empty else rng.integers(0, 256, (8, 8, 3))
            path = tmp_path / name / f"{number:02}.png"
            Image.fromarray(pixels_HWC.astype(np.uint8)).save(path)
    (tmp_path / "fine" / "00.png").write_bytes(b"no image")  # training names it

    notes = survey(DataConfig(name="imagefolder", root=str(tmp_path)), contents=True).notes
    (said,) = [note for note in notes if "one colour" in note]
    # 16 of the 16 that train: a tenth of 20 validates, a tenth tests
    assert said.startswith(
        "1 class has nothing but images of one colour, by those that were looked at: black "
        "(16 of 16, RGB 0 0 0); look at the files, and set data.white_level"
    )
