"""The boxes and segments of a JPEG 2000 file: how much work it is, and whether it is whole."""

import struct
from dataclasses import dataclass, field

from ..errors import InputError

BOX_START, STREAM_START = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
MAX_BOXES = 10_000
MAX_SEGMENTS = 100_000  # comments, tables and parts of tiles
SIZE, TILE_PART, TILE_DATA = 0xFF51, 0xFF90, 0xFF93
STREAM_END = b"\xff\xd9"
PROFILE_METHODS = (b"\2", b"\3")  # of a color box; others hold a number


@dataclass
class Jpeg2000:
    """A JPEG 2000 file made whole.

    Attributes:
        data: of the file.
        profile: color profile in its header, which the decoder does not look at.
        notes: what is wrong with the file, although it can be decoded.
    """

    data: bytes
    profile: bytes | None = None
    notes: list[str] = field(default_factory=list)


def examine_jpeg2000(data: bytes, name: str) -> Jpeg2000:
    """Walk over the boxes, and over the segments of the codestream in them.

    Raises:
        InputError: there are too many; or tiles are missing, which the decoder leaves black; or
            the values are of a kind that the decoder reads wrongly.
    """
    file = Jpeg2000(data)
    at = 0 if data.startswith(STREAM_START) else _find_stream(file, name)
    if data[at : at + 4] == STREAM_START and not _check_segments(data, at + 2, name):
        file.data = data + STREAM_END
        file.notes.append("the end of the file is missing")
    return file


def _find_stream(file: Jpeg2000, name: str) -> int:
    """The offset of the codestream; the end of the data if there is none. Keeps the profile."""
    data, at = file.data, 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(data):
            return len(data)
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"colr" and data[at + 8 : at + 9] in PROFILE_METHODS:
            file.profile = data[at + 11 : at + length]
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)  # 1 stands for a length of 8 bytes after it
        if length == 0:
            return len(data)
        # The boxes in the header box follow its own header.
        at += 8 if kind == b"jp2h" else max(length, 8)
    raise InputError(f"{name} is a JPEG 2000 file of more than {MAX_BOXES} boxes")


def _check_segments(data: bytes, at: int, name: str) -> bool:
    """Whether the marker is there that ends the codestream; or what is missing is more than it."""
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
            _check_depth(data, at, name)
        elif marker == TILE_PART:
            tile, size = struct.unpack_from(">HI", data, at + 4)
            tiles.add(tile)
            following = at + size if size else len(data) + 1  # 0 stands for the rest
            if following < at + 14:
                break
        at += 2 + length
    else:
        raise InputError(f"{name} is a JPEG 2000 file of more than {MAX_SEGMENTS} segments")
    if len(tiles) < expected:
        raise InputError(f"{name} is damaged: it has {len(tiles)} of {expected} tiles")
    return following != len(data)


def _check_depth(data: bytes, at: int, name: str) -> None:
    """Refuse several channels of more than 8 bits: Pillow makes black of their white."""
    if at + 40 > len(data):
        return
    count = struct.unpack_from(">H", data, at + 38)[0]
    bits = max((byte & 127 for byte in data[at + 40 : at + 40 + 3 * count : 3]), default=0) + 1
    if count > 1 and bits > 8:
        raise InputError(
            f"{name} is a JPEG 2000 file with {bits} bits per color, which is not supported; "
            "save it as PNG"
        )


def _count_tiles(data: bytes, at: int) -> int:
    """How many tiles cover the image, by the segment of its size."""
    if at + 38 > len(data):
        return 0
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, at + 6)
    if not width or not height:
        return 0
    return max(0, -((left - right) // width)) * max(0, -((top - bottom) // height))
