"""What a picture holds, as a hash: equal pictures are asked about once, changed ones again."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ..images.drawn import Refused
from ..images.inputs import Input
from ..images.limits import ImageLimits
from ..images.read import NamedBytes, read_source
from ..images.source import ImageSource, open_image

DIGEST_BYTES = 32


def read_content(given: Input, limits: ImageLimits) -> tuple[bytes, ImageSource]:
    """Read a picture once, so that what is hashed is what is decoded.

    Args:
        given: the picture.
        limits: on the bytes that are read.

    Returns:
        A hash of its file's bytes, page, time, part and slices, and a source to open. Of a picture
        without a file the pixels are hashed.

    Raises:
        InputError: it cannot be read.
        NetworkError: its URL cannot be fetched.
    """
    source = given.source
    if isinstance(source, Refused):
        raise source.error
    if isinstance(source, str | os.PathLike | bytes | bytearray) or hasattr(source, "read"):
        name, data = read_source(source, limits)
        source = NamedBytes(data)
        source.name = name
        found = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    elif given.path is not None:  # a page or a frame, which is drawn when it is opened
        status = given.path.stat()
        found = _file_digest(given.path, status.st_mtime_ns, status.st_size)
    else:
        if not isinstance(source, Image.Image):
            source = open_image(source, limits).decode()
        pixels = hashlib.blake2b(repr((source.mode, source.size)).encode())
        pixels.update(source.tobytes())
        found = pixels.digest()
    slices = [one.part for one in given.slices]
    place = repr((given.page, given.seconds, given.part, *slices)).encode()
    return hashlib.blake2b(found + place, digest_size=DIGEST_BYTES).digest(), source


@lru_cache(maxsize=4)
def _file_digest(path: Path, _modified: int, _size: int) -> bytes:
    """Hash a file of many pages once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
