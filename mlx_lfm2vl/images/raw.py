"""The full-size JPEG that cameras put into their raw photos."""

import struct
from dataclasses import dataclass

from ..errors import InputError
from .jpeg import FRAMES, START, examine_jpeg
from .tiff import (
    COMPRESSION,
    HEIGHT,
    JPEG_LENGTH,
    JPEG_START,
    JPEG_TABLES,
    ORIENTATION,
    PHOTOMETRIC,
    STRIP_LENGTHS,
    STRIPS,
    WIDTH,
    Directory,
)

JPEG_COMPRESSIONS = (6, 7)
YCBCR = 6  # photometric kind of the colors of JPEG files
LOSSLESS = 0xC3  # frame of the photo itself
SIDEWAYS = (5, 6, 7, 8)
LEAST_SHARE = 0.5  # of the photo's sides; smaller previews show too little
MAX_STREAMS = 16  # that are looked at
MAX_SEGMENTS = 200  # before the frame of a JPEG


@dataclass
class Preview:
    """An embedded JPEG.

    Attributes:
        data: of the JPEG.
        size: (width, height) in pixels, as they are stored.
        orientation: how it has to be turned, as in EXIF; 0 if the raw photo does not say so.
    """

    data: bytes
    size: tuple[int, int]
    orientation: int


def find_preview(data: bytes, directories: list[Directory], name: str) -> Preview | None:
    """Find the largest JPEG in a raw photo that is a TIFF.

    Args:
        data: of the raw photo.
        directories: all of it. The first says how the photo has to be turned.
        name: of the file, for messages.

    Returns:
        None if that JPEG is not whole, or has less than half of the sides of the photo.
    """
    photos = [part for part in directories if part.is_raw or not part.is_secondary]
    sizes = [(part.first(WIDTH), part.first(HEIGHT)) for part in photos]
    found: list[tuple[tuple[int, int], int, int]] = []
    streams = [(part, *place) for part in directories if (place := _place(part, data))]
    for part, start, end in streams[:MAX_STREAMS]:
        code, size = _frame(data, start, end)
        if code == LOSSLESS:
            sizes.append(size)  # the directory of a CR2 photo does not tell it
        elif code and _has_usual_colors(part):
            found.append((size, start, end))
    if not found:
        return None
    size, start, end = max(found, key=lambda place: _area(place[0]))
    photo = max(sizes, key=_area, default=(0, 0))
    stored = data[start:end]
    if not _is_large(size, photo) or not _is_whole(stored, name):
        return None
    return Preview(stored, size, _turn(directories[0].first(ORIENTATION), size, photo))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _place(part: Directory, data: bytes) -> tuple[int, int] | None:
    """Where the JPEG of a directory begins and ends, if it has one within the file."""
    start, length = part.first(JPEG_START), part.first(JPEG_LENGTH)
    if not length and part.first(COMPRESSION) in JPEG_COMPRESSIONS and part.strips == 1:
        start, length = part.first(STRIPS), part.first(STRIP_LENGTHS)
    end = start + length
    return (start, end) if end <= len(data) and data[start : start + 2] == START else None


def _frame(data: bytes, start: int, end: int) -> tuple[int, tuple[int, int]]:
    """The code of a JPEG's frame and its (width, height); (0, (0, 0)) if there is none."""
    at = start + len(START)
    for _ in range(MAX_SEGMENTS):
        if at + 10 > end or data[at] != 0xFF:
            break
        code, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if code in FRAMES:
            height, width, channels = struct.unpack_from(">HHB", data, at + 5)
            # A lossless frame holds neighboring pixels of a photo as its channels.
            return code, (width * channels if code == LOSSLESS else width, height)
        at += 2 + length
    return 0, (0, 0)


def _has_usual_colors(part: Directory) -> bool:
    """Whether a JPEG decodes to the right colors without what its directory says."""
    return part.numbers.get(PHOTOMETRIC, [YCBCR]) == [YCBCR] and JPEG_TABLES not in part.numbers


def _is_large(size: tuple[int, int], photo: tuple[int, int]) -> bool:
    sides = zip(sorted(size), sorted(photo), strict=True)
    return _area(photo) > 0 and all(side >= LEAST_SHARE * whole for side, whole in sides)


def _is_whole(stored: bytes, name: str) -> bool:
    try:
        return examine_jpeg(stored, name).is_ended
    except InputError:
        return False


def _turn(orientation: int, size: tuple[int, int], photo: tuple[int, int]) -> int:
    """How to turn a preview: not at all if it stands although the photo lies on its side."""
    was_turned = (size[0] > size[1]) != (photo[0] > photo[1])
    return 1 if orientation in SIDEWAYS and was_turned else orientation
