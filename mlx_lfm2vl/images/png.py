"""PNG files without the chunks that do not change the picture, and those that are broken."""

import struct
import zlib
from dataclasses import dataclass, field

from ..errors import InputError
from .png_colors import color_profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 200_000
MAX_PROFILE = 16 * 2**20  # bytes of a color profile, unpacked
MAX_TEXT = 2**16  # bytes of a text chunk that may say how the picture is turned
MAX_UNPACKED_TEXT = 2**20 - 1
PALETTE = b"\x03"  # type of color
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
COLORS = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
MAX_COLORS = 32  # bytes of such a chunk
# Keywords of text chunks that hold EXIF or XMP data.
TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")


@dataclass
class Png:
    """A PNG file made whole: what its pixels need, and what is said about the rest."""

    data: bytes
    profile: bytes | None = None  # embedded, or made of what other chunks say
    is_animated: bool = False
    notes: list[str] = field(default_factory=list)


def mend_png(data: bytes, name: str) -> Png:
    """Keep the chunks that make the picture.

    Side chunks of any size and with wrong checksums, and a missing end, do no harm.

    Raises:
        InputError: a checksum of the picture itself is wrong, or there are too many chunks.
    """
    png = Png(b"")
    view, sides, parts = memoryview(data), [], []
    at, count, is_clean, turning = len(SIGNATURE), 0, True, False
    colors: dict[bytes, bytes] = {}
    while at + 8 <= len(data):
        count += 1
        if count > MAX_CHUNKS:
            raise InputError(f"{name} is a PNG of more than {MAX_CHUNKS} chunks")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        body = view[at + 8 : end]
        is_whole = end + 4 <= len(data)
        is_right = is_whole and zlib.crc32(view[at + 4 : end]) == _checksum(data, end)
        if kind in CRITICAL:
            if is_whole and not is_right:
                raise InputError(f"{name} is damaged: the checksum of its {kind.decode()} is wrong")
        elif not is_right:
            is_clean = False
        at = end + 4
        if kind == b"CgBI":
            raise InputError(
                f"{name} is a PNG for iPhone apps only (CgBI), which is not supported; "
                "open it on a Mac and export it as PNG"
            )
        if kind == b"acTL" and len(body) == 8:
            png.is_animated = png.is_animated or struct.unpack_from(">I", body)[0] > 1
        if kind == b"iCCP" and is_right and png.profile is None:
            png.profile = _profile(body)
        if kind in COLORS and is_right and length <= MAX_COLORS:
            colors.setdefault(kind, bytes(body))
        if kind == b"IEND":
            break
        turns = is_right and not turning and _may_turn(kind, body)
        turning = turning or turns
        if kind in CRITICAL or (kind == b"tRNS" and is_right):
            parts.append(_chunk(kind, body))
        elif turns or (kind == b"eXIf" and is_right):
            sides.append(_chunk(kind, body))
    else:
        png.notes.append("the end of the file is missing")
    if parts and parts[0][17:18] == PALETTE and not any(part[4:8] == b"PLTE" for part in parts):
        raise InputError(f"{name} is damaged: its palette is missing")
    if not is_clean:
        png.notes.append("damaged side chunks were left out")
    if colors:
        png.profile, note = color_profile(colors, png.profile)
        png.notes += [note] if note else []
    # What turns the picture comes before its pixels, so that it is known without decoding them.
    png.data = b"".join([SIGNATURE, *parts[:1], *sides, *parts[1:], _chunk(b"IEND", b"")])
    return png


def _checksum(data: bytes, at: int) -> int:
    return struct.unpack_from(">I", data, at)[0]


def _chunk(kind: bytes, body: bytes | memoryview) -> bytes:
    return b"".join(
        [
            struct.pack(">I", len(body)),
            kind,
            body,
            struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))),
        ]
    )


def _may_turn(kind: bytes, body: memoryview) -> bool:
    """Whether a text chunk holds EXIF or XMP data, of a size that unpacks without harm."""
    text = bytes(body[: MAX_TEXT + 1])
    if len(text) > MAX_TEXT or not text.startswith(TURNING):
        return False
    if kind == b"zTXt":
        return _unpacked(text.partition(b"\0")[2][1:], MAX_UNPACKED_TEXT) is not None
    return kind == b"tEXt" or (kind == b"iTXt" and text.partition(b"\0")[2][:1] == b"\0")


def _profile(body: memoryview) -> bytes | None:
    """The color profile of a chunk; None if it cannot be unpacked."""
    return _unpacked(bytes(body).partition(b"\0")[2][1:], MAX_PROFILE)


def _unpacked(packed: bytes, limit: int) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, limit)
    except zlib.error:
        return None
    return data if unpacker.eof else None
