"""Mutated image files with fixed seeds: shown or refused, and never another exception."""

import contextlib
import io
import random

import mutations
import pillow_heif
import pytest
from drawn_files import packed_bits, png, tiff
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image

LIMITS = ImageLimits(max_pixels=4_000_000)


def seeds() -> list[bytes]:
    """Small files of every format, with the side data that cameras and programs add."""
    picture = make_picture(24, 36, 1)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera with a long name"
    clear = picture.copy()
    clear.putalpha(90)
    saved = [
        (picture, "jpeg", {"exif": exif}),
        (picture, "jpeg", {"progressive": True}),
        (picture.convert("CMYK"), "jpeg", {}),
        (picture, "png", {"exif": exif, "icc_profile": b"profile" * 9}),
        (clear, "png", {}),
        (picture.convert("P"), "png", {"transparency": 3}),
        (picture, "png", {"save_all": True, "append_images": [clear]}),
        (picture, "webp", {"exif": exif}),
        (clear, "webp", {"lossless": True}),
        (picture, "webp", {"save_all": True, "append_images": [clear]}),
        (picture, "gif", {"save_all": True, "append_images": [clear]}),
        (picture, "bmp", {}),
        (picture, "avif", {"exif": exif}),
        (picture, "jpeg2000", {}),
        (picture, "ppm", {}),
        (clear, "tga", {"compression": "tga_rle"}),
        (picture, "tiff", {"exif": exif}),
        (picture, "tiff", {"compression": "tiff_lzw", "save_all": True, "append_images": [clear]}),
        (picture, "tiff", {"compression": "jpeg"}),
        (picture.convert("1"), "tiff", {"compression": "group4"}),
        (picture.convert("I"), "tiff", {}),
        (picture.convert("F"), "tiff", {}),
    ]
    files = []
    for image, form, options in saved:
        data = io.BytesIO()
        image.save(data, form, **options)
        files.append(data.getvalue())
    deep = bytes(range(256)) * 2
    return [
        *files,
        heic(picture, exif),
        heic(clear, exif),
        png([deep[:72]] * 4, 12, 16, 2),
        png([packed_bits_row()] * 4, 8, 4, 0),
        tiff([deep[:96]], (4, 12), 0, (16,)),
        tiff([deep[:64]] * 3, (8, 8), 8, (8, 8, 8), packed=True),
        b"P5 8 8 100\n" + deep[:64],
    ]


def heic(image: Image.Image, exif: Image.Exif) -> bytes:
    data = io.BytesIO()
    pillow_heif.encode(image.mode, image.size, image.tobytes(), data, exif=exif.tobytes())
    return data.getvalue()


def packed_bits_row() -> bytes:
    import numpy as np

    return packed_bits(np.arange(8)[None], 4)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change, cut, repeat or insert a few bytes; most changes are near the front, in headers."""
    file = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        near = min(len(file), chance.choice([64, 200, len(file)]))
        at = chance.randrange(max(1, near))
        kind = chance.randrange(7)
        if kind == 0:
            del file[at:]
        elif kind == 1:
            del file[at : at + chance.choice([1, 2, 4, 12])]
        elif kind == 2:
            file[at:at] = file[at : at + chance.choice([1, 4, 12, 64])] * chance.choice([1, 3, 50])
        elif kind == 3:
            file[at : at + 4] = chance.choice(
                [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\x10\0\0\0"]
            )
        elif kind == 4 and file:
            file[min(at, len(file) - 1)] ^= 1 << chance.randrange(8)
        else:
            file[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(file)


@pytest.mark.slow
def test_a_cut_animated_png_is_shown_or_refused():
    data = next(data for data in seeds() if b"acTL" in data)
    for end in range(len(data)):
        with contextlib.suppress(InputError):
            open_image(data[:end], LIMITS).decode()


def test_every_seed_is_shown():
    for number, data in enumerate(seeds()):
        assert open_image(data, LIMITS).decode().mode == "RGB", number


@mutations.seeds(600, 20_000)
def test_mutated_files_are_shown_or_refused(capfd, bounds, cases):
    files, shown = seeds(), 0
    for case in range(cases):
        data = mutated(files[case % len(files)], random.Random(case))
        with bounds.case(case), contextlib.suppress(InputError):
            image = open_image(data, LIMITS).decode((8, 8) if case % 2 else None)
            assert image.mode == "RGB"
            shown += 1
    assert cases / 10 < shown < cases
    assert capfd.readouterr().err == ""
