"""The work and the memory that an image file can ask for are limited before it is decoded."""

import base64
import contextlib
import io
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from drawn_files import chunk, directory, header, png, tiff
from pictures import make_picture
from PIL import Image, ImageCms

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image

LIMITS = ImageLimits()
PICTURE = make_picture(40, 60, 1)


def encoded(form: str = "png", picture: Image.Image = PICTURE, **options) -> bytes:
    data = io.BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


def shown(source: object, limits: ImageLimits = LIMITS) -> np.ndarray:
    return np.asarray(open_image(source, limits).decode())


PNG = encoded()
JPEG = encoded("jpeg", quality=95)


def many_pages(count: int) -> bytes:
    tags = {256: (3, [8]), 257: (3, [6]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1])}
    tags |= {273: (4, [8]), 277: (3, [1]), 278: (3, [6]), 279: (4, [48])}
    size = len(directory(tags, 0))
    firsts = [56 + number * size for number in range(count)]
    body = b"".join(directory(tags, at, "<", at + size) for at in firsts[:-1])
    return header(56) + bytes(48) + body + directory(tags, firsts[-1])


def progressive(scans: int) -> bytes:
    """A progressive JPEG with many empty scans before its end."""
    data = encoded("jpeg", Image.new("L", (2000, 2000)), progressive=True)
    scan = data.rfind(b"\xff\xda")
    return data[:-2] + data[scan:-2] * scans + data[-2:]


def boxes(count: int) -> bytes:
    return b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 8, b"free") * count


def strips(count: int) -> bytes:
    tags = {273: (4, [8] * count), 279: (4, [1] * count), 278: (3, [1])}
    return tiff([bytes(60_000)], (60_000, 1), 1, (8,), tags)


def run_length_bmp(width: int, height: int) -> bytes:
    head = b"BM" + struct.pack("<IHHI", 1100, 0, 0, 1078)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 0, 0)
    return head + bytes(1100)


GIF = encoded("gif", PICTURE.convert("P"))[:-1]
WORK = {
    "pages": lambda: many_pages(50_000),
    "strips": lambda: strips(1_000_000),
    "scans": lambda: progressive(2000),
    "markers": lambda: JPEG[:2] + b"\xff\xe1\0\2" * 10_000_000 + JPEG[2:],
    "chunks": lambda: PNG[:33] + chunk(b"teXt", b"") * 2_000_000 + PNG[33:],
    "plain PPM": lambda: b"P3 4000 3000 255\n" + b"12 " * 36_000_000,
    "odd PPM": lambda: b"P6 4000 3000 100\n" + bytes(36_000_000),
    "comment": lambda: b"P6 #" + b"x" * 20_000_000,
    "boxes": lambda: boxes(5_000_000),
    "frames": lambda: GIF + b"\x21\xfe\0" * 10_000_000 + b";",
    "blocks": lambda: GIF + b"\x21\xfe" + b"\1x" * 10_000_000 + b"\0;",
    "run lengths": lambda: run_length_bmp(16000, 12000),
}


@pytest.mark.parametrize("name", WORK)
def test_a_file_that_is_much_work_is_shown_or_refused_soon(name):
    data = WORK[name]()
    begin = time.process_time()
    with contextlib.suppress(InputError):
        shown(data)
    assert time.process_time() - begin < 5


def test_a_webp_is_asked_for_its_size_before_the_decoder_takes_memory(monkeypatch):
    huge = b"UklGRhoAAABXRUJQVlA4TA0AAAAv/v/pGwcQERGIiP4HAA=="
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the decoder was asked"))
    with pytest.raises(InputError, match="16383 x 12200 pixels .* takes so much memory is 66"):
        open_image(base64.b64decode(huge), LIMITS)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_the_size_of_every_kind_of_webp_is_found(lossless, alpha):
    picture = make_picture(70, 110, 3)
    if alpha:
        picture.putalpha(100)
    data = encoded("webp", picture, lossless=lossless)
    with pytest.raises(InputError, match="110 x 70 pixels"):
        open_image(data, ImageLimits(max_pixels=70 * 110 * 24 // 8 - 8))
    assert open_image(data, ImageLimits(max_pixels=70 * 110 * 24 // 8 + 8)).size == (70, 110)


def test_decoding_takes_at_most_eight_bytes_a_pixel(tmp_path):
    side, extra = 3000, 40 * 2**20  # the strips, and what libraries keep
    turn = Image.Exif()
    turn[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kinds = {
        "alpha": ("RGBA", {}),
        "turned": ("RGB", {"exif": turn}),
        "16 bits": ("I;16", {}),
        "profile": ("RGB", {"icc_profile": profile}),
    }
    for kind, (mode, options) in kinds.items():
        picture = Image.new(mode, (side, side))
        picture.save(tmp_path / f"{kind}.png", compress_level=1, **options)
    code = (
        "import resource, sys\n"
        "from PIL import ImageCms\n"
        "from mlx_lfm2vl.images.patches import to_array\n"
        "from mlx_lfm2vl.images.source import ImageLimits, open_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    assert to_array(open_image(path, ImageLimits()).decode()).nbytes\n"
        "    print((peak() - before) * (1 if sys.platform == 'darwin' else 1024))"
    )
    paths = [str(tmp_path / f"{kind}.png") for kind in kinds]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, check=True)
    for kind, peak in zip(kinds, done.stdout.split(), strict=True):  # a peak stays the peak
        assert int(peak) < 8 * side * side + extra, kind


def test_a_png_is_opened_without_decoding_its_pixels():
    data = png([bytes(100)] * 20, 100, 8, 0)
    cut = data[: data.find(b"IDAT") + 8]
    assert open_image(cut, LIMITS).size == (20, 100)
    with pytest.raises(InputError, match="damaged"):
        shown(cut)
