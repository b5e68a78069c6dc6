"""Images as callers and other tools hand them over, turned into sources that can be opened."""

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ..errors import InputError
from ..images.source import ImageLimits, ImageSource
from .keys import known_values

EXPECTED = "expected a path, URL or PIL image, bytes, an open file or an array of pixels"
# Keys of an object that stands for an image. Data sets keep a file's name beside its bytes.
OBJECT_KEYS = ("url", "path", "bytes", "base64", "data")
OBJECT_BESIDE = ("type", "detail", "media_type", "mime_type")
# What the files of PNG, JPEG, GIF, WebP, TIFF and BMP begin with, in base64.
BASE64_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "Qk")
MAX_FILE_BYTES = ImageLimits().max_bytes  # of an open file; a path may have other limits
SHORTEST_BASE64 = 80  # characters; the smallest images have more, and few file names do


@runtime_checkable
class _File(Protocol):
    def read(self, size: int, /) -> Any: ...


@runtime_checkable
class _SeekableFile(Protocol):
    def seekable(self) -> bool: ...
    def seek(self, offset: int, /) -> Any: ...


@runtime_checkable
class _Array(Protocol):
    def __array__(self) -> Any: ...


# One image, as callers may give it.
ImageLike = ImageSource | os.PathLike[str] | bytearray | memoryview | _File | _Array
ONE_IMAGE = str | bytes | bytearray | memoryview  # sequences that are one image


def as_images(image: ImageLike | Sequence[ImageLike]) -> list[Any]:
    """Return one image, or several, as a list."""
    if isinstance(image, ONE_IMAGE) or not isinstance(image, Sequence):
        return [image]
    return list(image)


def read_source(value: object) -> ImageSource:
    """Return the source of an image.

    Args:
        value: a path, a URL, a data URI or a PIL image; bytes, or an object like bytes; a file
            that is open for reading bytes; an array of uint8 pixels, (H, W, 3), (H, W, 4) or
            (H, W), from NumPy or any library whose arrays NumPy reads; or an object with one of
            the keys `url`, `path`, `bytes` and `base64`.

    Raises:
        InputError: the value is something else.
    """
    if isinstance(value, str | Path | bytes | Image.Image):
        return value
    if isinstance(value, Mapping):
        return _from_object(value)
    if isinstance(value, os.PathLike):
        return Path(os.fsdecode(value))
    if isinstance(value, _File):
        return _from_file(value)
    if isinstance(value, _Array):
        return _from_array(value)
    if isinstance(value, bytearray | memoryview):
        view = memoryview(value)
        return _from_pixels(np.array(view)) if view.ndim > 1 else view.tobytes()
    raise InputError(f"an image part holds {value!r:.60}, {EXPECTED}")


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
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
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
    return read_source(source) if key in ("url", "path") else read_base64(source)


def _from_file(file: _File) -> bytes:
    """Read an open file from its beginning, so that a message can be used again."""
    data = bytearray()
    try:
        if isinstance(file, _SeekableFile) and file.seekable():
            file.seek(0)
        while piece := file.read(MAX_FILE_BYTES + 1 - len(data)):  # pipes give a part at a time
            if not isinstance(piece, bytes | bytearray):
                kind = type(piece).__name__
                raise InputError(f"an image's open file gives {kind}, expected bytes; use 'rb'")
            data += piece
            if len(data) > MAX_FILE_BYTES:
                raise InputError(f"an image's open file has over {MAX_FILE_BYTES} bytes")
    except (OSError, ValueError) as error:
        raise InputError(f"an image cannot be read from its open file: {error}") from None
    return bytes(data)


def _from_array(value: _Array) -> Image.Image:
    try:
        pixels = np.array(value)  # a copy: callers may reuse the memory of a frame
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"an image is an array that cannot be read: {error}") from None
    return _from_pixels(pixels)


def _from_pixels(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    is_color = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if pixels.dtype != np.uint8 or not (is_color or pixels.ndim == 2) or not pixels.size:
        raise InputError(
            f"an image is an array of {pixels.dtype} and shape {pixels.shape}, expected uint8 "
            "of (height, width, 3), (height, width, 4) or (height, width)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
