"""PNG files whose chunks describe other colors than sRGB; the values are worked out here."""

import io
import struct
import zlib

import numpy as np
import pytest
from drawn_files import chunk, png
from PIL import Image, ImageCms

from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image

LEVELS = np.arange(0, 256, 5)
GREYS = LEVELS.astype(np.uint8).tobytes()
LINEAR = struct.pack(">I", 100_000)


def shown(data: bytes) -> np.ndarray:
    return np.asarray(open_image(data, ImageLimits()).decode()).astype(int)[0]


def grey(*extra: bytes) -> np.ndarray:
    return shown(png([GREYS], len(LEVELS), 8, 0, *extra))[:, 1]


def encoded(light: np.ndarray) -> np.ndarray:
    """Levels of sRGB, from light of 0 to 1."""
    light = np.clip(light, 0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * curve


def gama(exponent: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(exponent * 100_000)))


def cicp(primaries: int, transfer: int, matrix: int = 0, is_full: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, matrix, is_full]))


@pytest.mark.parametrize("exponent", [1.0, 1 / 1.8, 0.7])
def test_a_gamma_is_converted_to_srgb(exponent):
    expected = encoded((LEVELS / 255) ** (1 / exponent))
    np.testing.assert_allclose(grey(gama(exponent)), expected, atol=1.5)


@pytest.mark.parametrize("exponent", [0.45455, 0.4545, 0, 40_000, 0.0001])
def test_the_gamma_of_srgb_and_impossible_ones_change_nothing(exponent):
    np.testing.assert_array_equal(grey(gama(exponent)), LEVELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pictures_of_every_mode_are_converted(mode):
    levels = np.array([[0, 255]] if mode == "1" else [[0, 64, 128, 255]], np.uint8)
    color = Image.fromarray(levels).convert("RGB")
    picture = color.convert(mode, palette=Image.Palette.ADAPTIVE)
    data = png_of(picture, gama(1))
    expected = encoded(levels[0] / 255)
    np.testing.assert_allclose(shown(data), np.repeat(expected[:, None], 3, 1), atol=1.5)


def png_of(picture: Image.Image, *extra: bytes) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()[:33] + b"".join(extra) + file.getvalue()[33:]


def test_a_transparent_color_stays_transparent_and_half_is_blended_after_the_conversion():
    halves = Image.new("LA", (2, 1), (0, 128))
    halves.putpixel((1, 0), (64, 0))
    blended = 255 * (1 - 128 / 255)
    expected = np.repeat([[blended], [255]], 3, 1)
    np.testing.assert_allclose(shown(png_of(halves, gama(1))), expected, atol=1.5)


TRANSFERS = {
    1: lambda v: np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45)),
    4: lambda v: v**2.2,
    8: lambda v: v,
    13: lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4),
}


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_transfer_functions_of_cicp_are_converted(transfer, caplog):
    expected = encoded(TRANSFERS[transfer](LEVELS / 255))
    np.testing.assert_allclose(grey(cicp(1, transfer)), expected, atol=1.5)
    assert not caplog.records


# Levels of ITU-R BT.2408: the share of the signal at which a card reflects some nits.
HDR = {16: {0.0: 0, 0.3819: 26, 0.5081: 100, 0.5807: 203, 0.9: 203}, 18: {0.5: 50.7, 0.75: 203}}


@pytest.mark.parametrize("transfer", HDR)
def test_pictures_of_high_dynamic_range_have_paper_white_as_white_and_say_so(transfer, caplog):
    for signal, nits in HDR[transfer].items():
        level = round(signal * 255)
        data = png([bytes([level])], 1, 8, 0, cicp(9, transfer))
        np.testing.assert_allclose(shown(data)[0], encoded(np.array(nits / 203)), atol=3)
    note = "its HDR colors were converted, and what is brighter than paper white is white"
    assert {record.getMessage() for record in caplog.records} == {f"image data: {note}"}


def test_primaries_are_converted():
    color = np.array([0.8, 0.3, 0.2])
    to_srgb = [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]
    expected = encoded(np.array(to_srgb) @ TRANSFERS[13](color))
    row = np.rint(color * 255).astype(np.uint8).tobytes()
    corners = [0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06]
    numbers = struct.pack(">8I", *(round(number * 100_000) for number in corners))
    for extra in ([cicp(12, 13)], [gama(0.45455), chunk(b"cHRM", numbers)]):
        np.testing.assert_allclose(shown(png([row], 1, 8, 2, *extra))[0], expected, atol=2)


def test_impossible_primaries_change_nothing():
    for numbers in ([0] * 8, [33333] * 8, [2**32 - 1] * 8):
        data = chunk(b"cHRM", struct.pack(">8I", *numbers))
        np.testing.assert_array_equal(grey(gama(1), data), LEVELS)


@pytest.mark.parametrize("body", [(1, 99), (99, 13), (1, 8, 1), (1, 8, 0, 0), (2, 2)])
def test_a_description_that_is_not_known_is_said(body, caplog):
    np.testing.assert_array_equal(grey(cicp(*body)), LEVELS)
    (record,) = caplog.records
    assert "its color description is not supported" in record.getMessage()


def profile_chunk() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    return chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(profile)))


def test_the_first_of_cicp_profile_srgb_and_gamma_counts():
    srgb = chunk(b"sRGB", b"\0")
    linear = encoded(LEVELS / 255)
    for stronger in (srgb, profile_chunk()):
        np.testing.assert_array_equal(grey(gama(1), stronger), LEVELS)
        np.testing.assert_array_equal(grey(stronger, gama(1)), LEVELS)
        np.testing.assert_allclose(grey(stronger, cicp(1, 8)), linear, atol=1.5)
    np.testing.assert_array_equal(grey(gama(1), cicp(1, 13)), LEVELS)
    np.testing.assert_allclose(grey(gama(1), cicp(99, 99)), linear, atol=1.5)
