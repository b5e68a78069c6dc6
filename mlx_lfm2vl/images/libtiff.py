"""How libtiff is used: for every TIFF that is opened here, and without a word of its own."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import Image


@contextmanager
def libtiff_only() -> Iterator[None]:
    """Let libtiff decode every TIFF that is opened meanwhile.

    Pillow's own code for unpacked ones is wrong for channels that are stored one after the other.
    """
    from PIL import TiffImagePlugin

    saved, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
    try:
        yield
    finally:
        TiffImagePlugin.READ_LIBTIFF = saved


@contextmanager
def silent_libtiff() -> Iterator[None]:
    """Keep libtiff from writing to standard error; the exception says the same.

    Its handlers of messages are taken away for a while. To point the descriptor of standard error
    elsewhere would swallow what other threads write. The handlers belong to the process, so this
    is done under the lock of `pillow_rules`. If the library hides them, its lines do appear.
    """
    setters = _handler_setters()
    saved = [set_handler(None) for set_handler in setters]
    try:
        yield
    finally:
        for set_handler, handler in zip(setters, saved, strict=True):
            set_handler(handler)


@cache
def _handler_setters() -> list[Any]:
    """The functions that set libtiff's handlers of errors and warnings and return the old one."""
    try:
        library = ctypes.CDLL(Image.core.__file__)  # its symbols include those of its libraries
        setters = [library.TIFFSetErrorHandler, library.TIFFSetWarningHandler]
    except (OSError, AttributeError, TypeError):
        return []
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return setters
