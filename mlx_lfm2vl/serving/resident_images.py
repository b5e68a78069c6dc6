"""Images on their way to a resident process: as the bytes of files, read by the client."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ..images.limits import ImageLimits
from ..images.read import NamedBytes, read_source

if TYPE_CHECKING:
    from PIL import Image

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def image_bytes(source: Any, limits: ImageLimits) -> NamedBytes:
    """Return the bytes of an image with its name for messages.

    A file's bytes are sent as they are. A picture that is drawn here, such as a page of a PDF, is
    sent as PNG, which keeps every pixel.

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
    from ..images.drawn import Drawn

    if isinstance(source, Drawn):
        return _named(source.name, _png(source.draw(limits)))
    if hasattr(source, "read") or isinstance(source, bytearray | memoryview):
        return _named(*read_source(source, limits))
    from PIL import Image

    from ..images.source import open_image

    if isinstance(source, Image.Image):
        return _named("image", _png(source))
    return _named("array", _png(open_image(source, limits).decode()))


def _named(name: str, data: bytes) -> NamedBytes:
    named = NamedBytes(data)
    named.name = name
    return named


def _png(image: Image.Image) -> bytes:
    kept = image if image.mode in PNG_MODES else image.convert("RGB")
    data = io.BytesIO()
    kept.save(data, "png", compress_level=1)
    return data.getvalue()
