"""Opening images from any source, within limits."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import InputError
from .container import FORMATS, ImageFile, check_pixels, examine
from .damage import DECODE_ERRORS
from .decode import OpenedImage, pillow_rules
from .drawn import Drawn
from .first_bytes import is_heic
from .heic import heif_decoder, open_heif
from .limits import ImageLimits
from .other_kinds import not_opened
from .read import EXPECTED, OpenFile, is_url, read_source
from .ready import ReadyImage

__all__ = [
    "EXPECTED",
    "ImageLimits",
    "ImageSource",
    "ImageSources",
    "OpenedImage",
    "is_url",
    "open_image",
    "read_size",
]


class Array(Protocol):
    """An array of any library whose arrays NumPy reads."""

    def __array__(self) -> Any: ...


BytesLike = bytes | bytearray | memoryview
# A `ReadyImage` is taken in messages only: it needs no opening.
ImageSource = (
    str | os.PathLike[str] | BytesLike | OpenFile | Array | Image.Image | Drawn | ReadyImage
)
ImageSources = ImageSource | Sequence[ImageSource]  # one image, or several
HEAD = 1024  # bytes that tell what kind of file it is
DEEP_HEIF_COST = 21  # bytes per pixel that pillow-heif takes for 10 bits with alpha
# Formats whose header Pillow reads as `open_image` does, without the rest of the file.
PLAIN_FORMATS = ("JPEG", "PNG", "GIF", "BMP")


def open_image(source: ImageSource, limits: ImageLimits) -> OpenedImage:
    """Read an image file and parse its header, without decoding the pixels.

    HEIC is an exception without pillow-heif: it is converted to TIFF at once.

    Args:
        source: a path (also with `~` or `file://`), an http(s) URL if `limits` allow it, a
            `data:` URI, the bytes of a file, a file open for reading bytes, a PIL image, or an
            array of uint8, (H, W, 3), (H, W, 4) or (H, W), from any library that NumPy reads, or
            a page, frame or slice as `expand_inputs` gives it, which is drawn at once.
        limits: on bytes read, pixels decoded and the use of the network.

    Raises:
        InputError: the source cannot be read, is not an image, or exceeds a limit.
        NetworkError: a URL could not be fetched.
    """
    if isinstance(source, Image.Image):
        return OpenedImage(source, ImageFile("image", b""), limits, ours=False)
    if isinstance(source, Drawn):
        return OpenedImage(source.draw(limits), ImageFile(source.name, b""), limits)
    if _is_array(source):
        return OpenedImage(from_array(source), ImageFile("array", b""), limits)
    name, data = read_source(source, limits)
    file = examine(data, name, limits)
    try:
        with pillow_rules(limits, file.is_tiff):
            image = _open(file, limits)
    except Image.DecompressionBombError:
        limit = limits.max_pixels / 1e6
        raise InputError(
            f"{file.name} has far more than {limit:g} megapixels, the limit; "
            "raise it with --max-megapixels"
        ) from None
    except DECODE_ERRORS:
        raise not_opened(file.data, file.name, FORMATS) from None
    return OpenedImage(image, file, limits)


def _open(file: ImageFile, limits: ImageLimits) -> Image.Image:
    if not is_heic(file.data):
        return Image.open(io.BytesIO(file.data), formats=FORMATS)
    image, file.profile, notes = open_heif(file.data)
    if image.mode == "RGBA" and image.info["bit_depth"] > 8:
        check_pixels(file.name, *image.size, DEEP_HEIF_COST, limits)
    file.orientation = 1  # pillow-heif turns the pixels
    file.notes += notes
    return image


def read_size(path: str | Path, limits: ImageLimits) -> tuple[int, int] | None:
    """Read (height, width) in pixels from a file's header.

    Returns:
        None if the file cannot be read, or is HEIC without pillow-heif, for then its size is not
        known before decoding. The sides of a photo that lies on its side may be exchanged.
    """
    try:
        with open(path, "rb") as file:
            if is_heic(file.read(HEAD)) and heif_decoder() is None:
                return None
            file.seek(0)
            try:
                with pillow_rules(limits), Image.open(file, formats=PLAIN_FORMATS) as image:
                    return image.height, image.width
            except DECODE_ERRORS:  # a kind that needs a closer look
                return open_image(file, limits).size
    except (OSError, ValueError, InputError):
        return None


def _is_array(source: object) -> bool:
    """Whether a source holds pixels, and not the bytes of a file."""
    if isinstance(source, memoryview):
        return source.ndim > 1
    return hasattr(source, "__array_interface__") or hasattr(source, "__array__")


def from_array(source: Any) -> Image.Image:
    """Make an image of an array of uint8: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""
    try:
        pixels = np.array(source)  # a copy: callers may reuse the memory of a frame
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"an image array cannot be read: {error}") from None
    shape = pixels.shape
    channels = shape[2] if len(shape) == 3 else 1
    if pixels.dtype != np.uint8 or len(shape) not in (2, 3) or channels not in (1, 3, 4):
        raise InputError(
            f"an image array has shape {shape} and type {pixels.dtype}, "
            "expected (height, width, 3) of uint8"
        )
    if 0 in shape:
        raise InputError(f"an image array has shape {shape}, which holds no pixels")
    pixels = np.ascontiguousarray(pixels if channels > 1 else pixels.reshape(shape[:2]))
    return Image.fromarray(pixels)
