"""Formats, depths and meanings of values: each picture has values worked out here."""

import numpy as np
import pytest
from drawn_files import chunk, packed_bits, png, tiff
from PIL import Image, ImageCms

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image

LIMITS = ImageLimits()
HEIGHT, WIDTH = 3, 5
# 15 levels of grey from black to white, row by row.
UNIT = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
GREY = np.rint(UNIT * 255).astype(int)
BLACK_IS_ZERO, WHITE_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 1, 0, 2, 3, 5, 6, 8
EXTRA = 338  # tag: what a fourth channel means; 0 nothing, 1 premultiplied alpha, 2 alpha


def shown(source: object) -> np.ndarray:
    opened = open_image(source, LIMITS)
    image = opened.decode()
    assert image.mode == "RGB"
    assert (image.height, image.width) == opened.size
    return np.asarray(image).astype(int)


def grey(source: object) -> np.ndarray:
    pixels = shown(source)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def whole(bits: int, order: str = "<") -> bytes:
    """The levels as whole numbers of some bits."""
    values = np.rint(UNIT * (2.0**bits - 1))
    if bits < 16 and bits != 8:
        return packed_bits(values.astype(int), bits)
    return values.astype(f"{order}u{bits // 8}").tobytes()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16, 32])
def test_grey_tiffs_of_every_depth_keep_black_black(bits, photometric, order, packed):
    data = tiff([whole(bits, order)], (HEIGHT, WIDTH), photometric, (bits,), None, order, packed)
    expected = np.rint(np.rint(UNIT * (2**bits - 1)) / (2**bits - 1) * 255)
    if photometric == WHITE_IS_ZERO:
        expected = 255 - expected
    if order == ">" and bits in (12, 32):
        with pytest.raises(InputError, match="not supported"):
            grey(data)
    else:
        np.testing.assert_allclose(grey(data), expected, atol=1)


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("most", [1.0, 255.0, 65535.0])
def test_floats_use_the_first_range_that_holds_them(most, photometric):
    values = (UNIT * most).astype("<f4").tobytes()
    data = tiff([values], (HEIGHT, WIDTH), photometric, (32,), {339: (3, [3])})
    expected = GREY if photometric else 255 - GREY
    np.testing.assert_allclose(grey(data), expected, atol=1)


@pytest.mark.parametrize(("low", "high"), [(0, 1e6), (-1000, 200)])
def test_floats_beyond_every_range_are_refused(low, high):
    values = (low + UNIT * (high - low)).astype("<f4").tobytes()
    with pytest.raises(InputError, match="its values range from"):
        shown(tiff([values], (HEIGHT, WIDTH), BLACK_IS_ZERO, (32,), {339: (3, [3])}))


def test_numbers_that_are_none_are_black_and_infinity_is_white():
    values = np.array([[np.nan, np.inf, -np.inf, 0.5, 1.0]], "<f4")
    data = tiff([values.tobytes()], (1, 5), BLACK_IS_ZERO, (32,), {339: (3, [3])})
    assert grey(data).tolist() == [[0, 255, 0, 128, 255]]


@pytest.mark.parametrize("bits", [8, 16])
def test_signed_values_are_refused(bits):
    data = tiff([whole(bits)], (HEIGHT, WIDTH), BLACK_IS_ZERO, (bits,), {339: (3, [2])})
    with pytest.raises(InputError, match="signed values"):
        shown(data)


def test_signed_32_bits_hold_16_bits_as_pillow_writes_them():
    values = np.rint(UNIT * 65535).astype("<i4")
    tags = {339: (3, [2])}
    data = tiff([values.tobytes()], (HEIGHT, WIDTH), BLACK_IS_ZERO, (32,), tags)
    np.testing.assert_allclose(grey(data), GREY, atol=1)
    data = tiff([(values - 5).tobytes()], (HEIGHT, WIDTH), BLACK_IS_ZERO, (32,), tags)
    with pytest.raises(InputError, match="its values range from -5"):
        shown(data)


COLORS = np.stack([UNIT, 1 - UNIT, UNIT**2], axis=-1)


def channels(values: np.ndarray, bits: int, order: str, planar: bool) -> list[bytes]:
    numbers = np.rint(values * (2.0**bits - 1)).astype(f"{order}u{bits // 8}")
    if not planar:
        return [numbers.tobytes()]
    return [np.ascontiguousarray(numbers[..., i]).tobytes() for i in range(values.shape[-1])]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_color_tiffs_are_shown_over_white(bits, planar, order, packed, extra):
    values, expected, tags = COLORS, COLORS, {}
    if extra is not None:
        alpha = np.full((HEIGHT, WIDTH, 1), 0.6)
        stored = COLORS * alpha if extra == 1 else COLORS
        values, tags = np.concatenate([stored, alpha], axis=-1), {EXTRA: (3, [extra])}
        expected = COLORS if extra == 0 else COLORS * 0.6 + 0.4
    data = tiff(
        channels(values, bits, order, planar),
        (HEIGHT, WIDTH),
        RGB,
        (bits,) * values.shape[-1],
        tags,
        order,
        packed,
    )
    np.testing.assert_allclose(shown(data), expected * 255, atol=2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_grey_with_a_second_channel_is_shown_over_white(extra, packed):
    values = np.stack([UNIT * 0.6 if extra == 1 else UNIT, np.full_like(UNIT, 0.6)], axis=-1)
    data = tiff(
        channels(values, 8, "<", False),
        (HEIGHT, WIDTH),
        1,
        (8, 8),
        {EXTRA: (3, [extra])},
        packed=packed,
    )
    expected = UNIT if extra == 0 else UNIT * 0.6 + 0.4
    np.testing.assert_allclose(grey(data), expected * 255, atol=2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_tiffs_show_their_colors(bits, packed):
    size = 2**bits
    ramp = np.arange(size) * 257 * (255 // (size - 1))
    table = [*ramp, *ramp[::-1], *ramp]
    indices = np.rint(UNIT * (size - 1)).astype(int)
    pixels = indices.astype(np.uint8).tobytes() if bits == 8 else packed_bits(indices, bits)
    tags = {320: (3, [int(value) for value in table])}
    data = tiff([pixels], (HEIGHT, WIDTH), PALETTE, (bits,), tags, packed=packed)
    level = ramp[indices] // 257
    np.testing.assert_allclose(shown(data), np.stack([level, 255 - level, level], axis=-1), atol=1)


def test_a_palette_of_8_bit_values_is_not_black():
    """Some programs write 8 bits where the standard has 16; libtiff tells it by the largest."""
    levels = [[(index * step) % 256 for index in range(256)] for step in (1, 3, 5)]
    pixels = np.arange(15, dtype=np.uint8)
    tags = {320: (3, [level for channel in levels for level in channel])}
    shown_pixels = shown(tiff([pixels.tobytes()], (3, 5), PALETTE, (8,), tags))
    expected = np.stack([pixels, pixels * 3, pixels * 5], axis=-1).reshape(3, 5, 3)
    np.testing.assert_array_equal(shown_pixels, expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_cmyk_tiffs_are_inks(bits, packed):
    inks = np.array([[[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]], float)
    data = tiff(channels(inks, bits, "<", False), (1, 4), CMYK, (bits,) * 4, packed=packed)
    expected = [[[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 0]]]
    assert shown(data).tolist() == expected


YCBCR_RED = bytes([76, 85, 255])  # ITU-R BT.601, full range


@pytest.mark.parametrize("packed", [False, True])
def test_ycbcr_tiffs_of_full_resolution_are_converted(packed):
    data = tiff([YCBCR_RED * 4], (2, 2), YCBCR, (8, 8, 8), {530: (3, [1, 1])}, packed=packed)
    np.testing.assert_allclose(shown(data), np.broadcast_to([254, 0, 0], (2, 2, 3)), atol=2)


def test_ycbcr_tiffs_of_half_resolution_are_converted():
    block = bytes([76] * 4 + [85, 255])  # four Y, one Cb, one Cr
    for tags in ({530: (3, [2, 2])}, {}):
        for packed in (False, True):
            data = tiff([block], (2, 2), YCBCR, (8, 8, 8), tags, packed=packed)
            np.testing.assert_allclose(shown(data), np.broadcast_to([254, 0, 0], (2, 2, 3)), atol=2)


@pytest.mark.parametrize("packed", [False, True])
def test_lab_tiffs_are_colors_as_people_see_them(packed):
    # L, a, b of sRGB white, red, green and grey (CIE 1976, D50), L in 255ths of 100.
    known = {
        (255, 255, 255): (100, 0, 0),
        (255, 0, 0): (54.29, 80.81, 69.89),
        (0, 128, 0): (46.28, -47.57, 48.60),
        (119, 119, 119): (50, 0, 0),
    }
    pixels = b"".join(
        bytes([round(lightness * 2.55), round(a) % 256, round(b) % 256])
        for lightness, a, b in known.values()
    )
    data = tiff([pixels], (1, len(known)), LAB, (8, 8, 8), packed=packed)
    np.testing.assert_allclose(shown(data)[0], list(known), atol=6)


def test_a_pil_image_in_lab_is_converted():
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = transform.apply(Image.new("RGB", (2, 2), (200, 40, 90)))
    np.testing.assert_allclose(shown(lab), np.broadcast_to([200, 40, 90], (2, 2, 3)), atol=4)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_transparent_grey_of_a_png_is_white_and_no_other_is(bits):
    values = np.rint(UNIT * (2**bits - 1)).astype(int)
    key = int(values[0, 2])
    raw = values.astype(">u2").tobytes() if bits == 16 else packed_bits(values, bits)
    width = len(raw) // HEIGHT
    rows = [raw[i : i + width] for i in range(0, len(raw), width)]
    data = png(rows, WIDTH, bits, 0, chunk(b"tRNS", key.to_bytes(2, "big")))
    expected = np.where(values == key, 255, np.rint(values / (2**bits - 1) * 255))
    np.testing.assert_allclose(grey(data), expected, atol=1)


def test_a_transparent_color_of_16_bits_is_compared_whole():
    row = np.array([[1000, 2000, 3000], [1001, 2000, 3000], [1000, 2000, 3001]], ">u2")
    key = row[0].tobytes()
    data = png([row.tobytes()], 3, 16, 2, chunk(b"tRNS", key))
    assert shown(data).tolist() == [[[255, 255, 255], [3, 7, 11], [3, 7, 11]]]


def test_a_transparent_color_of_8_bits_is_white():
    row = bytes([10, 20, 30, 11, 20, 30])
    data = png([row], 2, 8, 2, chunk(b"tRNS", bytes([0, 10, 0, 20, 0, 30])))
    assert shown(data).tolist() == [[[255, 255, 255], [11, 20, 30]]]


def test_an_alpha_of_zero_everywhere_in_a_tga_means_opaque(tmp_path):
    path, form = tmp_path / "a.tga", "TGA"
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(path, form)
    assert (shown(path) == [10, 20, 30]).all()
    half = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    half.putpixel((0, 0), (10, 20, 30, 255))
    half.save(path, form)
    assert shown(path)[:1, :2].tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["La", "RGBa", "LA", "RGBA", "PA"])
def test_pil_images_of_every_alpha_mode_are_shown_over_white(mode):
    steps = {"La": "LA"}
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0)).convert(steps.get(mode, "RGBA")).convert(mode)
    assert (shown(clear) == 255).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I", "F"])
def test_pil_images_of_16_bits_keep_their_range(mode):
    values = np.rint(UNIT * 65535)
    kind = {"I;16B": ">u2", "I": "<i4", "F": "<f4"}.get(mode, "<u2")
    image = Image.frombytes(mode, (WIDTH, HEIGHT), values.astype(kind).tobytes())
    np.testing.assert_allclose(grey(image), GREY, atol=1)


def test_a_pil_image_of_whole_numbers_up_to_255_is_not_black():
    numbers = Image.fromarray(GREY.astype(np.int32))
    assert numbers.mode == "I"
    np.testing.assert_array_equal(grey(numbers), GREY)
    np.testing.assert_array_equal(grey(Image.fromarray((GREY * 257).astype(np.int32))), GREY)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_pil_image_without_pixels_is_refused(size):
    with pytest.raises(InputError, match="there is nothing to see"):
        open_image(Image.new("RGB", size), LIMITS)
