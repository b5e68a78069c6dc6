"""The boxes and segments of a JPEG 2000 file: how much work it is, and whether it is whole."""

import struct

from ..errors import InputError

BOX_START, STREAM_START = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
MAX_BOXES = 10_000
MAX_SEGMENTS = 100_000  # comments, tables and parts of tiles
SIZE, TILE_PART, TILE_DATA = 0xFF51, 0xFF90, 0xFF93


def examine_jpeg2000(data: bytes, name: str) -> None:
    """Walk over the boxes, and over the segments of the codestream in them.

    Raises:
        InputError: there are too many, or tiles are missing, which the decoder leaves black.
    """
    at = 0 if data.startswith(STREAM_START) else _find_stream(data, name)
    if data[at : at + 4] == STREAM_START:
        _check_segments(data, at + 2, name)


def _find_stream(data: bytes, name: str) -> int:
    """The offset of the codestream; the end of the data if there is none."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(data):
            return len(data)
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)  # 1 stands for a length of 8 bytes after it
        if length == 0:
            return len(data)
        # The boxes in the header box follow its own header.
        at += 8 if kind == b"jp2h" else max(length, 8)
    raise InputError(f"{name} is a JPEG 2000 file of more than {MAX_BOXES} boxes")


def _check_segments(data: bytes, at: int, name: str) -> None:
    tiles: set[int] = set()
    expected, following = 0, 0
    for _ in range(MAX_SEGMENTS):
        if at + 12 > len(data):
            break
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == TILE_DATA:
            at = following
            continue
        if marker < 0xFF00 or length < 2:
            break
        if marker == SIZE:
            expected = _count_tiles(data, at)
        elif marker == TILE_PART:
            tile, size = struct.unpack_from(">HI", data, at + 4)
            tiles.add(tile)
            following = at + size if size else len(data)
            if following < at + 14:
                break
        at += 2 + length
    else:
        raise InputError(f"{name} is a JPEG 2000 file of more than {MAX_SEGMENTS} segments")
    if len(tiles) < expected:
        raise InputError(f"{name} is damaged: it has {len(tiles)} of {expected} tiles")


def _count_tiles(data: bytes, at: int) -> int:
    """How many tiles cover the image, by the segment of its size."""
    if at + 38 > len(data):
        return 0
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, at + 6)
    if not width or not height:
        return 0
    return max(0, -((left - right) // width)) * max(0, -((top - bottom) // height))
