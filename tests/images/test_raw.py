"""Raw photos: their embedded JPEG is used if it is whole and large, and a note says so."""

import contextlib
import io
import struct
import time

import numpy as np
import pytest
from drawn_files import directory, header
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.source import open_image, read_size

LIMITS = ImageLimits()
PICTURE = make_picture(64, 96, 1)
PREVIEW, FILTERED, YCBCR = 1, 32803, 6
Tags = dict[int, tuple[int, list[int]]]


def jpeg(picture: Image.Image = PICTURE, **options) -> bytes:
    data = io.BytesIO()
    picture.save(data, "jpeg", quality=95, **options)
    return data.getvalue()


JPEG = jpeg()
PIXELS = np.asarray(Image.open(io.BytesIO(JPEG)))
THUMB = jpeg(PICTURE.resize((24, 16)))
# The frame of a lossless JPEG: 14 bits, two neighboring pixels as channels.
LOSSLESS = b"\xff\xd8\xff\xc3\0\x0e\x0e" + struct.pack(">HHB", 64, 48, 2) + bytes(20) + b"\xff\xd9"


def subfile(kind: int) -> Tags:
    return {254: (4, [kind])}


def sized(width: int, height: int) -> Tags:
    return {256: (4, [width]), 257: (4, [height])}


def strip(compression: int) -> Tags:
    """Tags of pixels in one strip; `raw` fills in where it is."""
    return {259: (3, [compression]), 273: (4, [0]), 278: (3, [64]), 279: (4, [0])}


FIELD: Tags = {513: (4, [0]), 514: (4, [0])}  # the other way to say where a JPEG is
PHOTO = subfile(0) | sized(96, 64) | {259: (3, [1]), 262: (3, [FILTERED])} | strip(1)
JPEG_BELOW = subfile(PREVIEW) | {262: (3, [YCBCR])} | strip(7)
SMALL = subfile(PREVIEW) | sized(24, 16) | {262: (3, [2])} | strip(1)


def raw(
    *parts: tuple[Tags, bytes],
    below: int = 0,
    order: str = "<",
    first: bytes = b"",
    turned: int = 0,
) -> bytes:
    """Write a raw photo.

    Args:
        parts: tags of each directory, and the bytes that it points to.
        below: how many of the last directories are below the first one; the others follow it.
        order: `<` or `>`.
        first: bytes behind the header, as CR2 has them.
        turned: orientation of the photo.
    """
    at, places = 8 + len(first), []
    for _, body in parts:
        places.append(at)
        at += len(body) + len(body) % 2
    bodies = b"".join(body + b"\0" * (len(body) % 2) for _, body in parts)
    firsts = [0] * len(parts)
    for _ in range(2):  # the sizes of the directories are known after the first time
        written, start = b"", at
        for number, (tags, body) in enumerate(parts):
            entry = dict(tags)
            for offset, length in ((273, 279), (513, 514)):
                if offset in entry:
                    strips = len(entry[offset][1])
                    entry[offset] = (4, [places[number]] * strips)
                    entry[length] = (4, [len(body)] * strips)
            if number == 0:
                entry |= {274: (3, [turned])} if turned else {}
                entry |= {330: (4, firsts[-below:])} if below else {}
            firsts[number] = start + len(written)
            is_last = number + 1 >= len(parts) - below or (below and number >= len(parts) - below)
            following = 0 if is_last else firsts[number + 1]
            written += directory(entry, firsts[number], order, following)
    return header(at, order) + first + bodies + written


CR2 = b"CR\2\0" + bytes(4)
WHOLE = {
    "DNG": raw(
        (SMALL | {50706: (1, [1, 4, 0, 0])}, bytes(1152)),
        (PHOTO, b"x"),
        (JPEG_BELOW, JPEG),
        below=2,
    ),
    "NEF": raw(
        (SMALL, bytes(1152)), (subfile(PREVIEW) | FIELD, JPEG), (PHOTO, b"x"), below=2, order=">"
    ),
    "ARW": raw((subfile(PREVIEW) | FIELD, JPEG), (FIELD, THUMB), (PHOTO, b"x"), below=1),
    "CR2": raw(
        (sized(96, 64) | strip(6), JPEG),
        (FIELD, THUMB),
        (sized(24, 16) | {262: (3, [2])} | strip(1), bytes(1152)),
        (strip(6), LOSSLESS),
        first=CR2,
    ),
    "PEF": raw((PHOTO, b"x"), (subfile(PREVIEW) | FIELD, THUMB), (FIELD, JPEG), order=">"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_embedded_jpeg_of_full_size_is_used_and_said(name, tmp_path, caplog):
    path = tmp_path / "photo.raw"
    path.write_bytes(WHOLE[name])
    opened = open_image(path, LIMITS)
    assert opened.size == read_size(path, LIMITS) == (64, 96)
    np.testing.assert_array_equal(np.asarray(opened.decode()), PIXELS)
    (record,) = caplog.records
    said = f"{str(path)!r}: a raw photo; its embedded preview of 96 x 64 pixels is used"
    assert record.getMessage() == said


TURNS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_270,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("turned", TURNS)
@pytest.mark.parametrize("own", [0, 1, 6])
def test_it_is_turned_once_as_the_raw_photo_says(turned, own):
    exif = Image.Exif()
    if own:
        exif[0x0112] = own
    data = raw(
        (SMALL, bytes(1152)), (FIELD, jpeg(exif=exif)), (PHOTO, b"x"), below=2, turned=turned
    )
    upright = np.asarray(Image.fromarray(PIXELS).transpose(TURNS[turned]))
    opened = open_image(data, LIMITS)
    assert opened.size == upright.shape[:2]
    np.testing.assert_array_equal(np.asarray(opened.decode()), upright)


def test_a_preview_that_stands_already_is_not_turned_again():
    standing = PICTURE.transpose(Image.Transpose.ROTATE_90)
    data = raw((SMALL, bytes(1152)), (FIELD, jpeg(standing)), (PHOTO, b"x"), below=2, turned=8)
    assert open_image(data, LIMITS).size == (96, 64)


def test_without_a_word_of_the_raw_photo_the_jpegs_own_is_heard():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = raw((FIELD, jpeg(exif=exif)), (PHOTO, b"x"), below=1)
    assert open_image(data, LIMITS).size == (96, 64)


def test_a_preview_of_half_the_sides_is_used_and_a_smaller_one_refused():
    half, less = PICTURE.resize((48, 32)), PICTURE.resize((46, 32))
    photo = raw((SMALL, bytes(1152)), (FIELD, jpeg(half)), (PHOTO, b"x"), below=2)
    assert open_image(photo, LIMITS).size == (32, 48)
    with pytest.raises(InputError, match="is a raw photo"):
        open_image(raw((SMALL, bytes(1152)), (FIELD, jpeg(less)), (PHOTO, b"x"), below=2), LIMITS)


def with_jpeg(body: bytes, tags: Tags = FIELD) -> bytes:
    return raw((SMALL, bytes(1152)), (subfile(PREVIEW) | tags, body), (PHOTO, b"x"), below=2)


USELESS = {
    "cut": with_jpeg(JPEG[: len(JPEG) * 2 // 3]),
    "without its end": with_jpeg(jpeg(progressive=True)[:-2]),
    "no JPEG": with_jpeg(b"no JPEG" * 100),
    "endless header": with_jpeg(b"\xff\xd8" + b"\xff\xe1\0\2" * 100_000 + JPEG[2:]),
    "many scans": with_jpeg(
        jpeg(progressive=True)[:-2] + b"\xff\xda\0\x08\1\1\0\0\0\0" * 500 + b"\xff\xd9"
    ),
    "beyond the file": WHOLE["NEF"].replace(
        struct.pack(">HHII", 514, 4, 1, len(JPEG)), struct.pack(">HHII", 514, 4, 1, 2**32 - 1)
    ),
    "tables elsewhere": with_jpeg(JPEG, strip(7) | {347: (1, [0] * 8)}),
    "other colors": with_jpeg(JPEG, strip(7) | {262: (3, [2])}),
    "several strips": with_jpeg(JPEG, strip(7) | {273: (4, [8, 8])}),
    "lossless": with_jpeg(LOSSLESS),
    "the photo itself": raw((SMALL, bytes(1152)), (PHOTO | strip(7), JPEG), below=1),
    "photo of unknown size": raw((FIELD | subfile(PREVIEW), JPEG), (FIELD, b"x"), first=CR2),
}


@pytest.mark.parametrize("name", USELESS)
def test_a_jpeg_that_cannot_be_trusted_is_not_used(name):
    with pytest.raises(InputError, match="is a raw photo, of which only a small preview"):
        open_image(USELESS[name], LIMITS)


@pytest.mark.parametrize("name", WHOLE)
def test_a_photo_cut_or_changed_anywhere_is_shown_or_refused(name):
    rng, data = np.random.default_rng(0), WHOLE[name]
    changed = bytearray(data)
    for at in rng.integers(8, len(data), 15):
        changed[at] = int(rng.integers(256))
        for broken in (bytes(changed), data[:at]):
            with contextlib.suppress(InputError):
                open_image(broken, LIMITS).decode()


def test_many_previews_are_not_much_work():
    previews = [(FIELD, JPEG[:2] + bytes(8))] * 900
    data = raw((SMALL, bytes(1152)), (PHOTO, b"x"), *previews, below=1)
    begin = time.process_time()
    with pytest.raises(InputError, match="is a raw photo"):
        open_image(data, LIMITS)
    assert time.process_time() - begin < 1
