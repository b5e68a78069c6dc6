"""Names of files, as other programs list them: one a line, or with a NUL after each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import InputError

PIECE = 2**16  # bytes that are read at a time
MAX_NAME = 2**15  # bytes; no system has longer paths
MAX_LIST = 2**28  # bytes, which hold more than a million names
UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
BINARY = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")  # no name has them, nearly every image does


def names_in(source: str, stdin: BinaryIO | None = None) -> Iterator[str]:
    """Yield the names in a list, such as `find -print0` writes. Empty lines are passed over.

    A list with a NUL in its first 64 KiB has one after each name, and a name may then hold line
    ends. A mark of byte order at the beginning is passed over, and so are line ends of Windows.
    Nothing else has a meaning: neither patterns nor comments.

    Args:
        source: the file, or `-` for stdin.
        stdin: where `-` is read from. Its names are yielded as they come.

    Raises:
        InputError: at once, if there is no such list; later, if it cannot be read, is too long,
            holds no names, or is UTF-16 or no text.
    """
    if source == "-":
        if stdin is None:
            raise InputError("standard input is closed: there are no names to read")
        return _names(stdin, "the list of names on standard input")
    path = source if os.path.exists(source) else os.path.expanduser(source)
    if not os.path.exists(path):
        raise InputError(f"the list of names {source!r} does not exist")
    if os.path.isdir(path):
        raise InputError(
            f"{source!r} is a folder, expected a list of names; give it without --files-from"
        )
    return _names_of(path)


def _names_of(path: str) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            yield from _names(file, path)
    except OSError as error:
        raise InputError(f"the list of names {path!r} cannot be read: {error.strerror}") from None


def _names(file: BinaryIO, what: str) -> Iterator[str]:
    first = piece = _read(file)
    while piece and b"\n" not in first and b"\0" not in first and len(first) <= MAX_NAME:
        piece = _read(file)
        first += piece
    if first.startswith(UTF16_MARKS):
        raise InputError(f"{what} is UTF-16; save it as UTF-8")
    if BINARY.search(first):
        raise InputError(
            f"{what} is no text, expected one name a line; an image is given without --files-from"
        )
    separator = b"\0" if b"\0" in first else b"\n"
    rest = b""
    piece = first.removeprefix(UTF8_MARK)
    total = found = 0
    while piece:
        total += len(piece)
        *names, rest = (rest + piece).split(separator)
        if len(rest) > MAX_NAME:
            raise InputError(
                f"{what} has a name of over {MAX_NAME} bytes; expected one name a line"
            )
        if total > MAX_LIST:
            raise InputError(f"{what} has over {MAX_LIST // 2**20} MiB; divide it")
        for name in filter(None, (_clean(name, separator) for name in names)):
            found += 1
            yield os.fsdecode(name)
        piece = _read(file)
    if name := _clean(rest, separator):
        found += 1
        yield os.fsdecode(name)
    if not found:
        raise InputError(f"{what} holds no names")


def _read(file: BinaryIO) -> bytes:
    """Read what is there: a program that writes names slowly is not waited for to end."""
    return getattr(file, "read1", file.read)(PIECE)


def _clean(name: bytes, separator: bytes) -> bytes:
    return name if separator == b"\0" else name.removesuffix(b"\r")
