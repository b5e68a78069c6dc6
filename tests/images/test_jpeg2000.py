"""JPEG 2000 files: their segments are counted, and missing tiles are noticed."""

import io
import struct
import time

import numpy as np
import pytest
from pictures import make_picture

from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images import jpeg2000
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.png_colors import color_profile
from mlx_lfm2vl.images.source import open_image

LIMITS = ImageLimits()
PICTURE = make_picture(40, 60, 1)
PIXELS = np.asarray(PICTURE)


def encoded(**options) -> bytes:
    data = io.BytesIO()
    PICTURE.save(data, "jpeg2000", **options)
    return data.getvalue()


KINDS = {
    "boxes": {},
    "bare": {"no_jp2": True},
    "tiles": {"tile_size": (16, 16)},
    "bare tiles": {"tile_size": (16, 16), "no_jp2": True},
    "comment": {"comment": "x" * 1000},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_kind_is_shown(options):
    opened = open_image(encoded(**options), LIMITS)
    np.testing.assert_array_equal(np.asarray(opened.decode()), PIXELS)


def with_segments(data: bytes, segment: bytes, count: int) -> bytes:
    """Put segments behind the one that holds the size."""
    at = data.find(b"\xff\x51")
    at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return data[:at] + segment * count + data[at:]


COMMENT = b"\xff\x64\0\6\0\1ab"
LENGTHS = b"\xff\x55\0\4ab"


@pytest.mark.parametrize("segment", [COMMENT, LENGTHS], ids=["comment", "lengths"])
def test_a_file_of_a_few_more_segments_is_shown_and_of_very_many_refused(segment, monkeypatch):
    data = encoded(no_jp2=True)
    np.testing.assert_array_equal(
        np.asarray(open_image(with_segments(data, COMMENT, 50), LIMITS).decode()), PIXELS
    )
    begin = time.process_time()
    with pytest.raises(InputError, match="of more than 100000 segments"):
        open_image(with_segments(data, segment, 5_000_000), LIMITS)
    assert time.process_time() - begin < 2
    monkeypatch.setattr(jpeg2000, "MAX_SEGMENTS", 40)
    with pytest.raises(InputError, match="of more than 40 segments"):
        open_image(with_segments(encoded(), segment, 50), LIMITS)


def test_comments_in_the_header_of_a_tile_count_too(monkeypatch):
    data = encoded(no_jp2=True)
    tile, start = data.find(b"\xff\x90"), data.find(b"\xff\x93")
    size = struct.unpack_from(">I", data, tile + 6)[0]
    comments = COMMENT * 50
    longer = struct.pack(">I", size + len(comments))
    data = data[: tile + 6] + longer + data[tile + 10 : start] + comments + data[start:]
    np.testing.assert_array_equal(np.asarray(open_image(data, LIMITS).decode()), PIXELS)
    monkeypatch.setattr(jpeg2000, "MAX_SEGMENTS", 40)
    with pytest.raises(InputError, match="of more than 40 segments"):
        open_image(data, LIMITS)


@pytest.mark.parametrize("kind", ["tiles", "bare tiles"])
def test_a_file_without_some_of_its_tiles_is_refused(kind):
    data = bytearray(encoded(**KINDS[kind]))
    at = data.find(b"\xff\x51")
    right = struct.unpack_from(">I", data, at + 6)[0]
    struct.pack_into(">I", data, at + 6, right + 16)
    with pytest.raises(InputError, match="damaged: it has 12 of 15 tiles"):
        open_image(bytes(data), LIMITS)


def test_a_file_cut_anywhere_is_refused():
    data = encoded(tile_size=(16, 16))
    for end in range(12, len(data), len(data) // 100):
        with pytest.raises(InputError):
            open_image(data[:end], LIMITS).decode()


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_file_without_its_end_marker_is_shown_with_a_note(options, caplog):
    opened = open_image(encoded(**options)[:-2], LIMITS)
    np.testing.assert_array_equal(np.asarray(opened.decode()), PIXELS)
    assert "the end of the file is missing" in caplog.text


def test_a_file_cut_earlier_is_refused_and_a_whole_one_needs_no_note(caplog):
    data = encoded(no_jp2=True)
    open_image(data, LIMITS).decode()
    assert not caplog.records
    with pytest.raises(InputError):
        open_image(data[:-40], LIMITS).decode()


@pytest.mark.parametrize("channels", [1, 3])
def test_colors_of_more_than_8_bits_are_refused_since_the_decoder_makes_white_black(channels):
    data = encoded(no_jp2=True)
    at = data.find(b"\xff\x51") + 38
    deep = data[:at] + struct.pack(">H", channels) + bytes([11, 1, 1]) * 3 + data[at + 11 :]
    if channels == 1:
        open_image(deep, LIMITS)
        return
    with pytest.raises(InputError, match="12 bits per color"):
        open_image(deep, LIMITS)


def test_the_color_profile_in_the_header_is_used():
    data = encoded()
    profile = color_profile({b"gAMA": struct.pack(">I", 100_000)}, None)[0]  # linear light
    at, head = data.find(b"colr") - 4, data.find(b"jp2h") - 4
    old, whole = (struct.unpack_from(">I", data, place)[0] for place in (at, head))
    box = struct.pack(">I", 11 + len(profile)) + b"colr\2\0\0" + profile
    length = struct.pack(">I", whole - old + len(box))
    data = data[:head] + length + data[head + 4 : at] + box + data[at + old :]
    shown = np.asarray(open_image(data, LIMITS).decode()).astype(float)
    light = PIXELS / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(shown - 255 * expected).max() <= 3
