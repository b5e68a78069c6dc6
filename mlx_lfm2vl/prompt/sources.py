"""Images as callers and other tools hand them over, turned into sources that can be opened."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..images.read import decode_base64
from .keys import known_values

if TYPE_CHECKING:
    from ..images.source import ImageSource

# Keys of an object that stands for an image. Data sets keep a file's name beside its bytes.
OBJECT_KEYS = ("url", "path", "bytes", "base64", "data")
OBJECT_BESIDE = ("type", "detail", "media_type", "mime_type")
# What the files of PNG, JPEG, GIF, WebP, TIFF and BMP begin with, in base64.
BASE64_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "Qk")
SHORTEST_BASE64 = 80  # characters; the smallest images have more, and few file names do


ONE_IMAGE = str | bytes | bytearray | memoryview | array  # sequences that are one image


def as_images(image: ImageSource | Sequence[ImageSource]) -> list[Any]:
    """Return one image, or several, as a list."""
    if isinstance(image, ONE_IMAGE) or not isinstance(image, Sequence):
        return [image]
    return list(image)


def read_source(value: Any) -> ImageSource:
    """Return the source of an image, which `open_image` then reads or refuses.

    Args:
        value: a source, or an object with one of the keys `url`, `path`, `bytes` and `base64`.

    Raises:
        InputError: an object holds something else.
    """
    return _from_object(value) if isinstance(value, Mapping) else value


def read_base64(text: object) -> ImageSource:
    """Return the source of an image in base64, or in a data URI.

    Raises:
        InputError: the text is not base64.
    """
    if not isinstance(text, str):
        return read_source(text)
    if text[:5].lower() == "data:":
        return text
    try:
        return decode_base64(text)
    except ValueError:
        raise InputError(f"an image is {text[:40]!r}, which is not valid base64") from None


def read_path_or_base64(value: object) -> ImageSource:
    """Return the source of an image that is a path or base64, as in Ollama's `images`."""
    if (
        isinstance(value, str)
        and len(value) >= SHORTEST_BASE64
        and value.startswith(BASE64_BEGINNINGS)
        and "." not in value
    ):
        return read_base64(value)
    return read_source(value)


def _from_object(value: Mapping[str, Any]) -> ImageSource:
    given = known_values(value, OBJECT_KEYS, OBJECT_BESIDE, "an image")
    if "bytes" in given:
        given.pop("path", None)
    if len(given) != 1:
        found = f"holds {' and '.join(given)}" if given else "is empty"
        raise InputError(f"an image {found}; expected one of {', '.join(OBJECT_KEYS)}")
    ((key, source),) = given.items()
    if isinstance(source, Mapping):
        raise InputError(f"the {key} of an image is an object, expected text")
    return read_path_or_base64(source) if key in ("url", "path") else read_base64(source)
