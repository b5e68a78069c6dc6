"""Images on their way to a resident process: as the bytes of files, read by the client."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ...images.limits import ImageLimits
from ...images.read import NamedBytes, read_source

if TYPE_CHECKING:
    from PIL import Image

TRANSPARENT = ("LA", "P", "RGB", "RGBA")  # modes that PNG keeps with their transparency


def image_bytes(source: Any, limits: ImageLimits) -> NamedBytes:
    """Return the bytes of an image with its name for messages.

    A file's bytes are sent as they are. A picture in memory, such as a page of a PDF, is sent as
    PNG.

    Args:
        source: what `open_image` takes.
        limits: on what is read; they say whether addresses are fetched.

    Raises:
        InputError: the source cannot be read, or a picture cannot be drawn.
        NetworkError: an image URL cannot be fetched.
    """
    if isinstance(source, NamedBytes):
        return source
    if isinstance(source, str | bytes) or hasattr(source, "__fspath__"):
        return _named(*read_source(source, limits))
    from ...images.drawn import Drawn

    if isinstance(source, Drawn):
        return _named(source.name, _png(source.draw(limits), limits))
    if hasattr(source, "read") or isinstance(source, bytearray | memoryview):
        return _named(*read_source(source, limits))
    from PIL import Image

    from ...images.source import from_array

    if isinstance(source, Image.Image):
        return _named("image", _png(source, limits))
    return _named("array", _png(from_array(source), limits))


def _named(name: str, data: bytes) -> NamedBytes:
    named = NamedBytes(data)
    named.name = name
    return named


def _png(picture: Image.Image, limits: ImageLimits) -> bytes:
    """Return a picture as PNG: upright, and in RGB unless it is transparent.

    What is below transparent pixels is for the process: the request names the color.
    """
    from PIL import ImageOps

    from ...images.source import open_image

    if not picture.has_transparency_data:
        kept = open_image(picture, limits).decode()
    else:  # Pillow gives a TIFF the right way up already
        kept = picture if picture.format == "TIFF" else ImageOps.exif_transpose(picture)
        if kept.mode not in TRANSPARENT:
            kept = kept.convert("LA" if kept.mode == "La" else "RGBA")
    data = io.BytesIO()
    kept.save(data, "png", compress_level=1)
    return data.getvalue()
