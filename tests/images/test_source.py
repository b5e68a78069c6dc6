"""Images from outside, each made in place: shown the way a person would see them, or refused."""

import base64
import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from pictures import make_picture
from PIL import Image, ImageCms

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.source import ImageLimits, open_image, read_size

LIMITS = ImageLimits()


def encoded(image: Image.Image, form: str = "png", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def load_image(source, limits: ImageLimits) -> Image.Image:
    return open_image(source, limits).decode()


def pixels(source, limits: ImageLimits = LIMITS) -> np.ndarray:
    image = load_image(source, limits)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_a_path_bytes_data_uri_file_uri_and_pil_image_give_the_same(tmp_path, monkeypatch):
    picture = make_picture(20, 30, 1)
    data = encoded(picture)
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    monkeypatch.setenv("HOME", str(tmp_path))
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (path, str(path), "~/a picture.png", path.as_uri(), data, uri, picture):
        np.testing.assert_array_equal(pixels(source), np.asarray(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = make_picture(24, 40, 2)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(pixels(encoded(stored, exif=exif)), np.asarray(upright))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_tiff_that_lies_on_its_side_is_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encoded(make_picture(24, 40, 2), "tiff", exif=exif), LIMITS)
    assert opened.size == (40, 24)
    assert opened.decode().size == (24, 40)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_goes_over_white(mode):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0)).convert(mode)
    form = "tiff" if mode == "PA" else "png"
    source = clear if mode == "PA" else encoded(clear, form)
    assert (pixels(source) == 255).all()
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert abs(int(pixels(encoded(half))[0, 0, 0]) - 127) <= 1


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    shown = pixels(encoded(image, transparency=0))
    assert shown.tolist() == [[[255, 255, 255], [0, 255, 0]]]


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 17).astype(np.uint16)[None]
    shown = pixels(encoded(Image.fromarray(ramp)))[0, :, 0]
    np.testing.assert_allclose(shown, np.linspace(0, 255, 17), atol=1)
    tiff = pixels(encoded(Image.fromarray(ramp), "tiff"))[0, :, 0]
    np.testing.assert_array_equal(tiff, shown)


def test_every_eight_bit_level_survives_sixteen_bits():
    levels = np.arange(256, dtype=np.uint16)[None]
    shown = pixels(encoded(Image.fromarray(levels * 257)))[0, :, 0]
    np.testing.assert_array_equal(shown, levels[0])


def test_float_grey_keeps_its_range():
    ramp = np.linspace(0, 1, 5, dtype=np.float32)[None]
    shown = pixels(encoded(Image.fromarray(ramp), "tiff"))[0, :, 0]
    np.testing.assert_allclose(shown, [0, 64, 128, 191, 255], atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_every_color_mode_becomes_rgb(mode):
    picture = make_picture(16, 16, 3)
    form = {"CMYK": "tiff", "YCbCr": "tiff"}.get(mode, "png")
    shown = pixels(encoded(picture.convert(mode), form))
    assert shown.shape == (16, 16, 3)
    expected = np.asarray(picture.convert(mode).convert("RGB"))
    np.testing.assert_allclose(shown.astype(int), expected, atol=3)


def wide_gamut_profile() -> bytes:
    """An ICC profile as sRGB but with the red and green primaries of a wider space."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", data, 128)[0]
    for i in range(count):
        tag, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * i)
        primaries = {b"rXYZ": (0.5151, 0.2412, -0.0011), b"gXYZ": (0.2920, 0.6922, 0.0419)}
        if tag in primaries:
            values = [round(value * 65536) for value in primaries[tag]]
            struct.pack_into(">3i", data, offset + 8, *values)
    return bytes(data)


def test_a_wide_gamut_profile_becomes_srgb():
    red = Image.new("RGB", (4, 4), (200, 40, 40))
    shown = pixels(encoded(red, icc_profile=wide_gamut_profile()))
    assert shown[0, 0, 0] > 205  # the same red is stronger in sRGB numbers
    assert shown[0, 0, 1] < 35


def test_an_srgb_profile_leaves_the_pixels_alone():
    picture = make_picture(16, 16, 4)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(
        pixels(encoded(picture, icc_profile=profile)), np.asarray(picture)
    )


def test_a_broken_profile_is_ignored():
    picture = make_picture(8, 8, 4)
    shown = pixels(encoded(picture, icc_profile=b"nonsense"))
    np.testing.assert_array_equal(shown, np.asarray(picture))


def test_an_animation_gives_its_first_frame_and_says_so(caplog):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]
    assert "several frames or pages: using the first" in caplog.text


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm", "avif"])
def test_common_formats_are_read(form):
    assert pixels(encoded(make_picture(16, 24, 5), form)).shape == (16, 24, 3)


def test_one_pixel_is_an_image():
    assert pixels(encoded(Image.new("RGB", (1, 1)))).shape == (1, 1, 3)


# -- refused, each with one line --


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be huge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


BAD = {
    "truncated jpeg": (encoded(make_picture(200, 200, 6), "jpeg")[:3000], "damaged"),
    "bomb": (bomb(60000, 60000), "more than 200 megapixels"),
    "empty": (b"", "empty"),
    "text": (b"hello, this is no image", "not an image"),
    "html": (b"<html><body>404</body></html>", "a web page, not an image"),
    "truncated header": (encoded(make_picture(20, 20, 6))[:20], "is PNG, but damaged"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bytes_are_refused_in_one_line(tmp_path, name):
    data, message = BAD[name]
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(InputError, match=message) as error:
            load_image(source, LIMITS)
        assert "\n" not in str(error.value)


def test_a_damaged_png_is_refused():
    data = bytearray(encoded(make_picture(64, 64, 7)))
    data[200:260] = bytes(60)
    with pytest.raises(InputError, match="damaged"):
        load_image(bytes(data), LIMITS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (".", "is a folder"),
        ("/no/such/file.png", "does not exist"),
        ("http://example.com/a.png", "--allow-url"),
        ("https://example.com/a.png", "--allow-url"),
        ("data:image/png;base64,@@@", "cannot be read: Only base64"),
        ("a\0b.png", "cannot be read|does not exist"),
        ("x" * 5000, "cannot be read|does not exist"),
    ],
)
def test_bad_sources_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        load_image(source, LIMITS)


def test_the_pixel_cap_is_checked_before_decoding_and_settable():
    data = encoded(make_picture(30, 40, 1))
    with pytest.raises(InputError, match="40 x 30 pixels"):
        load_image(data, ImageLimits(max_pixels=1199))
    assert pixels(data, ImageLimits(max_pixels=1200)).shape == (30, 40, 3)
    with pytest.raises(InputError, match="40 x 30 pixels"):
        load_image(Image.new("RGB", (40, 30)), ImageLimits(max_pixels=1199))


def test_the_byte_cap_holds_for_files_and_bytes(tmp_path):
    data = encoded(make_picture(30, 40, 1))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(InputError, match="bytes, at most 100"):
            load_image(source, ImageLimits(max_bytes=100))


def test_a_file_of_exactly_the_byte_cap_is_read(tmp_path):
    data = encoded(make_picture(30, 40, 1))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, data):
        assert pixels(source, ImageLimits(max_bytes=len(data))).shape == (30, 40, 3)


def test_pillows_global_limit_is_left_as_it_was():
    before = Image.MAX_IMAGE_PIXELS
    load_image(encoded(make_picture(30, 40, 1)), LIMITS)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("form", ["gif", "tiff", "avif", "webp"])
def test_a_series_cut_anywhere_is_refused_or_read_but_never_crashes(form):
    frames = [make_picture(20, 30, seed) for seed in range(3)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    for end in range(0, len(data), max(1, len(data) // 60)):
        with contextlib.suppress(InputError):
            load_image(data[:end], LIMITS)


def test_an_ico_is_refused_since_it_decodes_before_its_size_is_known():
    with pytest.raises(InputError, match="not an image"):
        load_image(encoded(make_picture(32, 32, 1), "ico"), LIMITS)


@pytest.mark.parametrize(
    "source", ["http://[::1", "~nosuchuser/x.png", "data:image/png;base64,é", "file://[x"]
)
def test_malformed_sources_are_one_line(source):
    with pytest.raises(InputError) as error:
        load_image(source, ImageLimits(allow_url=True))
    assert "\n" not in str(error.value)


def photo(width: int, height: int, **options) -> bytes:
    """A smooth picture with a little noise, as a JPEG file."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 4, smooth.shape)
    picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return encoded(picture, "jpeg", quality=90, **options)


@pytest.mark.parametrize(
    ("needed", "size"),
    [
        ((78, 105), (160, 200)),  # a quarter, 1.9 times as large as needed
        ((86, 50), (320, 400)),
        ((50, 106), (320, 400)),
        ((246, 300), (320, 400)),
        ((1, 1), (160, 200)),
        ((247, 100), (640, 800)),
        ((640, 800), (640, 800)),
        (None, (640, 800)),
    ],
)
def test_a_jpeg_is_decoded_somewhat_larger_than_it_must_be(needed, size):
    opened = open_image(photo(800, 640), ImageLimits())
    assert opened.size == (640, 800)
    image = opened.decode(needed)
    assert (image.height, image.width) == size


def test_a_reduced_jpeg_is_turned_the_right_way_up():
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_image(photo(800, 640, exif=exif), ImageLimits())
    assert opened.size == (800, 640)
    image = opened.decode((210, 160))
    assert (image.height, image.width) == (400, 320)
    whole = open_image(photo(800, 640, exif=exif), ImageLimits()).decode()
    difference = np.asarray(image).astype(int) - np.asarray(whole.resize((320, 400)))
    assert np.abs(difference).mean() < 3


def test_someone_elses_image_keeps_its_size():
    theirs = Image.open(io.BytesIO(photo(800, 600)))
    assert open_image(theirs, ImageLimits()).decode((10, 10)).size == (800, 600)
    assert theirs.size == (800, 600)


def test_an_image_that_changes_its_size_after_it_was_planned_is_refused():
    theirs = make_picture(60, 80, 1)
    opened = open_image(theirs, LIMITS)
    theirs.thumbnail((40, 30))
    with pytest.raises(InputError, match="decodes to 40 x 30 pixels, expected 80 x 60"):
        opened.decode()


def test_what_was_decoded_is_not_decoded_again():
    opened = open_image(photo(800, 600), LIMITS)
    opened.decode((75, 100))
    with pytest.raises(ValueError, match="already decoded; open it again"):
        opened.decode()


def test_only_jpegs_are_reduced():
    png = encoded(make_picture(64, 64, 1))
    assert open_image(png, ImageLimits()).decode((8, 8)).size == (64, 64)


def test_the_size_is_read_from_the_header_or_not_at_all(tmp_path):
    path = tmp_path / "a.png"
    make_picture(30, 40, 1).save(path)
    assert read_size(path, LIMITS) == (30, 40)
    path.write_bytes(path.read_bytes()[:60])  # the header is whole
    assert read_size(path, LIMITS) == (30, 40)
    for data in (b"", b"no image", BAD["heic"][0]):
        path.write_bytes(data)
        assert read_size(path, LIMITS) is None
    assert read_size(tmp_path / "gone.png", LIMITS) is None


def test_a_url_is_refused_with_the_way_to_allow_it_on_the_command_line_and_in_python():
    with pytest.raises(InputError) as error:
        load_image("https://example.com/a.png", ImageLimits())
    told = "--allow-url, in Python with load(..., limits=ImageLimits(allow_url=True))"
    assert str(error.value).endswith(told)
