"""The segments of a JPEG file: how much work it is, whether it is whole, how far it can shrink."""

import re
import struct
from dataclasses import dataclass

from ..errors import InputError

START, END = b"\xff\xd8", b"\xff\xd9"
MAX_SEGMENTS = 20_000  # before the pixels; ICC profiles and XMP data of many megabytes take 2,000
MAX_SCANS = 200  # encoders write 10 to 20
NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
SCAN, END_CODE, FILL = 0xDA, 0xD9, 0xFF
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # C4, C8, CC are tables
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
BLOCK = 8  # pixels of a side
# By what a picture may be divided, if its sides remain so many times what is needed. What is left
# for the second reduction evens out how much the two differ from one; 8 would keep nothing of a
# block that tells lines from grey.
SCALES = ((4, 1.9), (2, 1.3))


@dataclass
class Jpeg:
    """Whether the end marker is there, which follows the last row of pixels."""

    is_ended: bool


def examine_jpeg(data: bytes, name: str) -> Jpeg:
    """Walk over the segments.

    Raises:
        InputError: there are too many segments or scans, or the kind of JPEG is not supported.
    """
    at, scans, components = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        found = NEXT_MARKER.search(data, at)
        if found is None:
            return Jpeg(is_ended=False)
        code, at = data[found.end() - 1], found.end()
        if code == END_CODE:
            return Jpeg(is_ended=True)
        if code in ALONE:
            continue
        if at + 2 > len(data):
            return Jpeg(is_ended=False)
        body = data[at + 2 : at + 20]
        if code in FRAMES and len(body) >= 6:
            components = body[5]
            _check_kind(code, body[0], name)
        if code == SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise InputError(f"{name} is a JPEG of more than {MAX_SCANS} scans")
            # All components of a picture in one scan: nothing of it follows.
            if body[:1] == bytes([components]) and _is_sequential(data, at) and data.endswith(END):
                return Jpeg(is_ended=True)
        at += struct.unpack_from(">H", data, at)[0]
    raise InputError(f"{name} is a JPEG of more than {MAX_SEGMENTS} segments")


def _is_sequential(data: bytes, at: int) -> bool:
    """Whether a scan holds all frequencies in full precision."""
    count = data[at + 2]
    return data[at + 3 + 2 * count : at + 6 + 2 * count] == b"\0\x3f\0"


def _check_kind(code: int, bits: int, name: str) -> None:
    if code in (0xC3, 0xC7, 0xCB, 0xCF):
        raise InputError(f"{name} is a lossless JPEG, which is not supported; save it as PNG")
    if bits != 8:
        raise InputError(
            f"{name} is a JPEG with {bits} bits per value, which is not supported; save it as PNG"
        )


def reduction(data: bytes, size: tuple[int, int], needed: tuple[int, int]) -> int:
    """By what the decoder may divide the sides of a picture: 4, 2 or 1.

    A block that lies partly beyond the picture is not reduced: what is there would show at the
    edge, and a lossless crop leaves pixels of the old picture there.

    Args:
        data: of the file.
        size: (height, width) as stored, in pixels.
        needed: (height, width) to which the picture will be resized.
    """
    sampling = _sampling(data)
    if sampling is None:
        return 1
    for scale, left_over in SCALES:
        # Colors of half the resolution are decoded in full at a scale of 2.
        units = (1, 1) if scale == 2 and sampling == (2, 2) else sampling
        is_whole = all(side % (BLOCK * unit) == 0 for side, unit in zip(size, units, strict=True))
        is_enough = all(
            side >= left_over * scale * least for side, least in zip(size, needed, strict=True)
        )
        if is_whole and is_enough:
            return scale
    return 1


def _sampling(data: bytes) -> tuple[int, int] | None:
    """The largest (vertical, horizontal) sampling factors; None if the frame is not found."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = NEXT_MARKER.search(data, at)
        if found is None or found.end() + 8 > len(data):
            return None
        code, at = data[found.end() - 1], found.end()
        if code in FRAMES:
            factors = data[at + 9 : at + 8 + 3 * data[at + 7] : 3]
            if not factors:
                return None
            return max(factor & 15 for factor in factors), max(factor >> 4 for factor in factors)
        if code not in ALONE:
            at += struct.unpack_from(">H", data, at)[0]
    return None
