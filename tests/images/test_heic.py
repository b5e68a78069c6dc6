"""HEIC photos, made in place, by pillow-heif or by a `sips` that a function stands in for."""

import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from pictures import make_picture
from PIL import Image, ImageCms, ImageOps

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image, read_size

LIMITS = ImageLimits()
EXACT = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}  # lossless, and RGB inside
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def heic(image: Image.Image | np.ndarray, **options) -> bytes:
    """Encode a picture; of an array, with 10 bits."""
    data = io.BytesIO()
    if isinstance(image, np.ndarray):
        mode = {3: "RGB;10", 4: "RGBA;10"}[image.shape[2]]
        size, raw = image.shape[1::-1], image.astype("<u2").tobytes()
    else:
        mode, size, raw = image.mode, image.size, image.tobytes()
    pillow_heif.encode(mode, size, raw, data, **(EXACT | options))
    return data.getvalue()


def pixels(data: bytes, limits: ImageLimits = LIMITS) -> np.ndarray:
    image = open_image(data, limits).decode()
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_exactly_once(orientation, tmp_path):
    picture = make_picture(24, 40, 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = heic(picture, exif=exif.tobytes())
    picture.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(pixels(data), upright)
    assert open_image(data, LIMITS).size == upright.shape[:2]
    path = tmp_path / "a.heic"
    path.write_bytes(data)
    assert read_size(path, LIMITS) == upright.shape[:2]


def test_a_photo_at_the_usual_quality_keeps_its_colors():
    picture = Image.new("RGB", (64, 64), (200, 30, 60))
    picture.paste((20, 90, 220), (32, 0, 64, 64))
    shown = pixels(heic(picture, quality=80, chroma=420, matrix_coefficients=6)).astype(int)
    inside = np.ones((64, 64), bool)
    inside[:, 28:36] = False  # colors are stored at half the resolution
    assert np.abs(shown - np.asarray(picture))[inside].max() <= 4


def test_ten_bits_become_eight():
    levels = np.zeros((64, 64, 3), np.uint16)
    levels[:] = np.linspace(0, 1023, 64)[None, :, None]
    expected = levels * 255.0 / 1023
    assert np.abs(pixels(heic(levels)) - expected).max() <= 1


def test_transparent_pixels_are_blended_over_white():
    picture = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    picture.paste((255, 0, 0, 128), (0, 0, 16, 32))
    shown = pixels(heic(picture)).astype(int)
    assert np.abs(shown[5, 5] - [255, 127, 127]).max() <= 2
    assert np.abs(shown[5, 25]).max() <= 2


def test_a_color_profile_is_applied():
    linear = {"color_primaries": 1, "transfer_characteristics": 8}
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    assert np.abs(pixels(heic(grey, **linear)).astype(int) - 188).max() <= 2
    # An ICC profile comes before numbers.
    assert np.abs(pixels(heic(grey, icc_profile=SRGB, **linear)).astype(int) - 128).max() <= 1


def test_colors_of_another_gamut_are_converted():
    p3 = heic(Image.new("RGB", (32, 32), (128, 128, 0)), color_primaries=12)
    red, green, blue = pixels(p3)[9, 9].astype(int)
    assert abs(red - 128) <= 3
    assert abs(green - 128) <= 3
    assert blue == 0
    red = pixels(heic(Image.new("RGB", (32, 32), (200, 90, 60)), color_primaries=12))[9, 9]
    assert red[0] > 210  # more saturated in sRGB
    with_tv_curve = pixels(
        heic(Image.new("RGB", (32, 32), (9, 128, 200)), transfer_characteristics=1)
    )
    np.testing.assert_array_equal(with_tv_curve[9, 9], [9, 128, 200])


def test_a_photo_of_high_dynamic_range_is_white_where_paper_is(caplog):
    hdr = {"color_primaries": 9, "transfer_characteristics": 16}
    paper = np.full((32, 32, 3), round(0.5807 * 1023), np.uint16)  # 203 nits of 10,000
    assert pixels(heic(paper, **hdr)).min() >= 252
    assert "its HDR colors were converted" in caplog.text


def test_of_several_pictures_the_primary_one_is_used(caplog):
    file = pillow_heif.from_pillow(Image.new("RGB", (32, 32), "red"))
    file.add_from_pillow(Image.new("RGB", (32, 48), "blue"))
    data = io.BytesIO()
    file.save(data, primary_index=1, **EXACT)
    np.testing.assert_array_equal(pixels(data.getvalue())[0, 0], [0, 0, 255])
    assert "it holds 2 pictures, of which the primary one is used" in caplog.text


def test_too_many_pixels_are_refused_before_anything_is_decoded(monkeypatch):
    data = heic(make_picture(64, 64, 1))
    with pytest.raises(InputError, match=r"64 x 64 pixels \(0.004096 .* is 0.000666667; raise"):
        open_image(data, ImageLimits(max_pixels=1000))
    deep = heic(np.zeros((64, 64, 4), np.uint16))
    assert open_image(data, ImageLimits(max_pixels=64 * 64 * 12 // 8)).size == (64, 64)
    with pytest.raises(InputError, match="the limit for a format that takes so much memory"):
        open_image(deep, ImageLimits(max_pixels=64 * 64 * 12 // 8))
    at = data.index(b"ispe") + 8
    bomb = data[:at] + (60_000).to_bytes(4) * 2 + data[at + 8 :]
    for installed in (pillow_heif, None):
        monkeypatch.setitem(sys.modules, "pillow_heif", installed)
        with pytest.raises(InputError, match="has 60000 x 60000 pixels"):
            open_image(bomb, LIMITS)


def test_a_damaged_photo_is_refused():
    data = heic(make_picture(64, 64, 1))
    for cut in (40, len(data) // 2, len(data) - 20):
        with pytest.raises(InputError, match="HEIC, but damaged|is damaged"):
            open_image(data[:cut], LIMITS).decode()


def test_threads_decode_at_the_same_time():
    pictures = [make_picture(64, 80, seed) for seed in range(4)]
    files = [heic(picture) for picture in pictures] * 4
    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(pixels, files))
    for i, found in enumerate(shown):
        np.testing.assert_array_equal(found, np.asarray(pictures[i % 4]))


class Sips:
    """Stands in for `subprocess.run`, and so for the program; keeps its commands."""

    def __init__(self) -> None:
        self.commands, self.works = [], True

    def __call__(self, command, **_) -> None:
        self.commands.append(command)
        if not self.works:
            raise subprocess.CalledProcessError(1, command)
        make_picture(12, 20, 3).save(Path(command[-1]), "tiff")


@pytest.fixture
def sips(monkeypatch) -> Iterator[Sips]:
    """A Mac without pillow-heif."""
    sips = Sips()
    with monkeypatch.context() as mac:  # nothing else may be imported for a Mac meanwhile
        mac.setitem(sys.modules, "pillow_heif", None)
        mac.setattr("mlx_lfm2vl.images.heic.sys.platform", "darwin")
        mac.setattr("subprocess.run", sips)
        yield sips


def test_a_mac_reads_heic_without_a_package(sips):
    shown = pixels(heic(make_picture(16, 16, 1)))
    np.testing.assert_array_equal(shown, np.asarray(make_picture(12, 20, 3)))
    assert [command[:4] for command in sips.commands] == [["sips", "-s", "format", "tiff"]]


def test_what_sips_cannot_read_is_refused_with_both_ways_out(sips):
    sips.works = False
    told = r"sips cannot convert it; try pip install pillow-heif, or export it as JPEG"
    with pytest.raises(InputError, match=told):
        open_image(heic(make_picture(16, 16, 1)), LIMITS)


def test_without_a_decoder_both_ways_out_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    told = r"pip install pillow-heif; or convert it first \(on a Mac: sips -s format jpeg"
    with pytest.raises(InputError, match=told):
        open_image(heic(make_picture(16, 16, 1)), LIMITS)
