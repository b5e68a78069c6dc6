"""The segments of a JPEG file: how much work it is, and whether it is whole."""

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
