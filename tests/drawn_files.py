"""TIFF, PNG and PDF files written byte by byte, so that a test knows what they must show."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

FORMS = {1: "B", 2: "s", 3: "H", 4: "I", 7: "s"}


def tiff(
    planes: list[bytes],
    size: tuple[int, int],
    photometric: int,
    bits: tuple[int, ...],
    tags: dict[int, tuple[int, list[int]]] | None = None,
    order: str = "<",
    packed: bool = False,
) -> bytes:
    """Write a TIFF of one strip per plane.

    Args:
        planes: bytes of the pixels; more than one are the channels, each on its own.
        size: (height, width) in pixels.
        photometric: what the values mean: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK ...
        bits: of each channel.
        tags: more tags, as {tag: (type, values)}.
        order: `<` or `>`.
        packed: deflate the strips.
    """
    strips = [zlib.compress(plane) if packed else plane for plane in planes]
    offsets, at = [], 8
    for strip in strips:
        offsets.append(at)
        at += len(strip) + len(strip) % 2
    entries = {
        256: (3, [size[1]]),
        257: (3, [size[0]]),
        258: (3, list(bits)),
        259: (3, [8 if packed else 1]),
        262: (3, [photometric]),
        273: (4, offsets),
        277: (3, [len(bits)]),
        278: (3, [size[0]]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if len(planes) > 1 else 1]),
        **(tags or {}),
    }
    body = b"".join(strip + b"\0" * (len(strip) % 2) for strip in strips)
    return header(8 + len(body), order) + body + directory(entries, 8 + len(body), order)


def header(first: int, order: str = "<") -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, first)


def directory(
    entries: dict[int, tuple[int, list[int]]], at: int, order: str = "<", following: int = 0
) -> bytes:
    """Write a directory of tags that begins at an offset, with the values that lie outside."""
    outside = at + 2 + 12 * len(entries) + 4
    records, values = b"", b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{FORMS[kind]}", *numbers)
        records += struct.pack(order + "HHI", tag, kind, len(numbers))
        if len(packed) <= 4:
            records += packed.ljust(4, b"\0")
        else:
            records += struct.pack(order + "I", outside + len(values))
            values += packed + b"\0" * (len(packed) % 2)
    count = struct.pack(order + "H", len(entries))
    return count + records + struct.pack(order + "I", following) + values


def chunk(kind: bytes, body: bytes, wrong: bool = False) -> bytes:
    """Write a chunk of a PNG, with a wrong checksum on request."""
    checksum = zlib.crc32(kind + body) ^ wrong
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(rows: list[bytes], width: int, depth: int, color: int, *extra: bytes) -> bytes:
    """Write a PNG of unfiltered rows; `extra` are chunks before the pixels."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *extra, chunk(b"IDAT", pixels)]
    return b"".join([*parts, chunk(b"IEND", b"")])


def packed_bits(values: np.ndarray, bits: int) -> bytes:
    """Pack rows of small numbers, each row ending at a whole byte."""
    binary = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(binary.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def pdf(*pages: tuple[str, str], extra: Sequence[str] = (), trailer: str = "") -> bytes:
    """A PDF.

    Args:
        pages: entries of its dictionary, and what is drawn, for each page.
        extra: more objects; the first has number 3.
        trailer: entries of the trailer, and of the catalog those after a `|`.
    """
    trailer, _, catalog = trailer.partition("|")
    first = 3 + len(extra)
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        *extra,
    ]
    for entries, drawn in pages:
        content = f"/Contents {len(objects) + 2} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R {content} {entries} >>")
        objects.append(f"<< /Length {len(drawn)} >> stream\n{drawn}\nendstream")
    data, places = "%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start, count = len(data), len(objects) + 1
    data += f"xref\n0 {count}\n0000000000 65535 f \n{table}"
    data += f"trailer << /Size {count} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n"
    return data.encode("latin-1")
