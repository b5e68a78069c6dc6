"""What kind of file it is: mended where damage does no harm, refused by name if it is no image."""

import re
import struct
from dataclasses import dataclass, field

from ..errors import InputError
from .first_bytes import AVIF_BRANDS, brands_of, is_heic, is_video
from .heic import heic_to_tiff, heif_decoder, largest_size
from .jpeg import START, examine_jpeg
from .jpeg2000 import BOX_START, STREAM_START, examine_jpeg2000
from .limits import ImageLimits
from .other_kinds import FRAME, HEADER_BYTES, refuse_other
from .png import SIGNATURE, mend_png
from .raw import find_preview
from .tiff import PHOTOMETRIC, WHITE_IS_ZERO, Directory, find_page, raw_photo

# Not EPS and PDF, whose decoders start other programs, nor ICO, which decodes as it is opened.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
RAW_STARTS += (b"II\x1a\0\0\0HEAPCCDR",)

WEBP_COST = 24  # bytes per pixel that the decoder takes, as soon as the file is opened
HEIF_COST = 12  # with pillow-heif
PIXEL_COST = 8  # bytes per pixel that every limit on pixels allows for
MAX_BLOCKS = 1_000_000  # of a GIF
MAX_SLOW_BYTES = 2**23  # of kinds of BMP and PPM that Pillow decodes in Python, 1 MB a second
MAX_SLOW_PIXELS = 2**24


@dataclass
class ImageFile:
    """The bytes of an image file as the decoder gets them.

    Attributes:
        name: of the file, for messages.
        data: bytes that Pillow opens.
        is_tiff: whether it is TIFF.
        page: number of the picture in a TIFF.
        is_inverted: whether the data say that black is zero, but white is.
        profile: color profile that was taken out of the data.
        is_series: whether there are more frames or pages.
        is_ended: whether the marker is there that ends a JPEG.
        orientation: how the picture has to be turned, as in EXIF; 0 if its own data say so.
        notes: what is wrong with the file, although it can be decoded.
    """

    name: str
    data: bytes
    is_tiff: bool = False
    page: int = 0
    is_inverted: bool = False
    profile: bytes | None = None
    is_series: bool = False
    is_ended: bool = True
    orientation: int = 0
    notes: list[str] = field(default_factory=list)


def examine(data: bytes, name: str, limits: ImageLimits) -> ImageFile:
    """Look at the structure of a file before a decoder sees it.

    The work is linear in the size of the file, and bounded.

    Raises:
        InputError: the file is no image that can be read, or reading it takes too much.
    """
    if data[4:8] == b"ftyp":
        data = _from_boxes(data, name, limits)
    file = ImageFile(name, data)
    if data.startswith(SIGNATURE):
        png = mend_png(data, name)
        file.data, file.profile, file.is_series = png.data, png.profile, png.is_animated
        file.notes += png.notes
    elif data.startswith(START):
        file.is_ended = examine_jpeg(data, name).is_ended
    elif data.startswith(RAW_STARTS):
        raise raw_photo(name)
    elif data.startswith(TIFF_STARTS) and len(data) > 8:
        _examine_tiff(file)
    elif data[:4] == b"GIF8":
        file.is_series = count_frames(data, name, 2) > 1
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_webp(data, name, limits)
        _mend_webp(file)
    elif data.startswith((BOX_START, STREAM_START)):
        whole = examine_jpeg2000(data, name)
        file.data, file.profile = whole.data, whole.profile
        file.notes += whole.notes
    elif data[:2] == b"BM":
        _check_bmp(data, name)
    elif re.match(rb"P[1-6fy]\s", data):
        _check_ppm(data, name)
    else:
        refuse_other(data, name)
    return file


def _examine_tiff(file: ImageFile) -> None:
    page = find_page(file.data, file.name)
    if page.raw_parts:
        _use_preview(file, page.raw_parts)
        return
    file.is_tiff, file.page, file.is_series = True, page.number, page.is_series
    directory = page.directory
    if directory.is_deep and directory.first(PHOTOMETRIC) == WHITE_IS_ZERO:
        file.data, file.is_inverted = directory.as_black_is_zero(file.data), True


def _use_preview(file: ImageFile, parts: list[Directory]) -> None:
    """Take the JPEG that a camera made of a raw photo, if it is large enough."""
    preview = find_preview(file.data, parts, file.name)
    if preview is None:
        raise raw_photo(file.name)
    file.data, file.orientation = preview.data, preview.orientation
    width, height = preview.size
    file.notes.append(f"a raw photo; its embedded preview of {width} x {height} pixels is used")


def check_pixels(name: str, width: int, height: int, cost: float, limits: ImageLimits) -> None:
    """Refuse an image that has too many pixels for a decoder that takes `cost` bytes for each.

    Raises:
        InputError: there are too many.
    """
    most = limits.max_pixels * min(1.0, PIXEL_COST / cost)
    if width * height > most:
        why = " for a format that takes so much memory" if most < limits.max_pixels else ""
        raise InputError(
            f"{name} has {width} x {height} pixels ({width * height / 1e6:g} megapixels), "
            f"the limit{why} is {most / 1e6:g}; raise it with --max-megapixels"
        )


def _from_boxes(data: bytes, name: str, limits: ImageLimits) -> bytes:
    brands = brands_of(data)
    if brands & AVIF_BRANDS:
        return data[:8] + b"avif" + data[12:]  # Pillow looks at the first brand only
    if is_heic(data):
        check_pixels(name, *largest_size(data), HEIF_COST, limits)
        return heic_to_tiff(data, name) if heif_decoder() is None else data
    if b"crx " in brands:
        raise raw_photo(name)
    if is_video(data):
        raise InputError(f"{name} is a video, not an image this program can read; {FRAME}")
    return data


def count_frames(data: bytes, name: str, most: int) -> int:
    """Count the frames of a GIF, up to so many.

    Raises:
        InputError: there are too many blocks up to them.
    """
    flags = data[10] if len(data) > 10 else 0
    at, frames = 13 + _colors(flags), 0
    for _ in range(MAX_BLOCKS):
        kind = data[at : at + 1]
        if kind == b",":
            frames += 1
            if frames == most:
                return frames
            at += 10
            at += 1 + _colors(data[at - 1] if at <= len(data) else 0)
        elif kind == b"!":
            at += 2
        elif kind in (b";", b""):
            return frames
        else:
            at += 1
            continue
        at = _after_blocks(data, at, name)
    raise InputError(f"{name} is a GIF of more than {MAX_BLOCKS} blocks")


def _colors(flags: int) -> int:
    """The bytes of a color table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int, name: str) -> int:
    for _ in range(MAX_BLOCKS):
        if at >= len(data) or data[at] == 0:
            return at + 1
        at += data[at] + 1
    raise InputError(f"{name} is a GIF of more than {MAX_BLOCKS} blocks")


def _check_webp(data: bytes, name: str, limits: ImageLimits) -> None:
    """Ask for the size of a WebP, for whose pixels the decoder takes memory as it opens it."""
    kind, head = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        width = 1 + int.from_bytes(head[4:7], "little")
        height = 1 + int.from_bytes(head[7:10], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 6))
    check_pixels(name, width, height, WEBP_COST, limits)


def _mend_webp(file: ImageFile) -> None:
    """Correct the size at the beginning of a WebP whose chunks are all there."""
    size, actual = struct.unpack_from("<I", file.data, 4)[0], len(file.data) - 8
    if size <= actual:
        return
    at = 12
    while at < len(file.data) and at + 8 <= len(file.data):
        length = struct.unpack_from("<I", file.data, at + 4)[0]
        at += 8 + length + length % 2
    if at > len(file.data):
        raise InputError(f"{file.name} is damaged or not supported: the file is cut off")
    file.data = file.data[:4] + struct.pack("<I", actual) + file.data[8:]
    file.notes.append("it is shorter than its first bytes say")


def _check_bmp(data: bytes, name: str) -> None:
    """Refuse a large compressed BMP: Pillow decodes it in Python."""
    if len(data) < 34 or struct.unpack_from("<I", data, 14)[0] < 40:
        return
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2):
        _check_slow(data, width * abs(height), f"{name} is a large compressed BMP")


def _check_ppm(data: bytes, name: str) -> None:
    """Refuse a large PPM of a kind that Pillow decodes in Python, and an endless header."""
    head = re.sub(rb"#[^\n\r]*", b" ", data[:HEADER_BYTES])
    header = re.match(rb"P(.)\s+(\d+)\s+(\d+)(?:\s+(\d+))?", head)
    if header is None:
        raise InputError(f"{name} is damaged: a PPM whose size is not in its first bytes")
    kind, width, height, most = header.groups()
    is_plain = kind in b"123"
    if is_plain or (kind in b"56" and most not in (b"255", b"65535")):
        pixels = int(width[:9]) * int(height[:9])
        _check_slow(data, pixels, f"{name} is a large PPM of an unusual kind")


def _check_slow(data: bytes, pixels: int, what: str) -> None:
    if len(data) > MAX_SLOW_BYTES or pixels > MAX_SLOW_PIXELS:
        raise InputError(
            f"{what}, of which at most {MAX_SLOW_BYTES // 2**20} MiB and "
            f"{MAX_SLOW_PIXELS // 10**6} megapixels are read; save it as PNG"
        )
