"""Files whose pixels cannot be read are refused in words of ours, without those of a library."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.damage import reason
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
FORMS = {
    "png": {},
    "jpeg": {},
    "gif": {},
    "bmp": {},
    "tga": {"compression": "tga_rle"},
    "jpeg2000": {},
    "ppm": {},
    "tiff": {"compression": "tiff_lzw"},
    "webp": {},
}
OURS = {
    "the file is cut off",
    "its pixels cannot be decoded",
    "its structure is broken",
}


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, form, **FORMS[form])
    return file.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(InputError) as error:
        open_image(data, ImageLimits()).decode()
    return str(error.value)


@pytest.mark.parametrize("form", ["png", "jpeg", "gif", "bmp", "tga", "ppm"])
def test_a_file_that_is_cut_off_is_said_to_be_cut_off(form):
    data = encoded(form)
    message = refusal(data[: len(data) * 2 // 3])
    assert message == "image data is damaged or not supported: the file is cut off"


@pytest.mark.parametrize("form", FORMS)
def test_no_words_of_a_library_are_shown(form):
    data, rng, refused = encoded(form), np.random.default_rng(1), 0
    for _ in range(12):
        bad = bytearray(data[: rng.integers(200, len(data))])
        bad[rng.integers(100, len(bad))] ^= 255
        try:
            open_image(bytes(bad), ImageLimits()).decode()
        except InputError as error:
            _, found, why = str(error).partition("damaged or not supported: ")
            refused += 1
            assert not found or why in OURS
    assert refused


def test_pixels_that_do_not_unpack_are_told_from_a_cut():
    data = encoded("png")
    at = data.index(b"IDAT")
    bad = data[: at + 10] + bytes(50) + data[at + 60 :]
    end = data.index(b"IEND") - 8
    body = bad[at:end]
    message = refusal(bad[:end] + zlib.crc32(body).to_bytes(4, "big") + bad[end + 4 :])
    assert message == "image data is damaged or not supported: its pixels cannot be decoded"


def test_every_error_has_a_reason():
    assert reason(MemoryError()) == "there is not enough memory"
    assert reason(ValueError("Operation on closed image")).startswith("its file was closed")
    assert reason(KeyError("x")) == "its structure is broken"
