"""A file of what a model has read: safetensors whose first value is a checksum of the rest.

The disk cache and saved chats write and read their files here. Nothing is parsed before the
checksum is found right. It detects damage. It does not detect a forgery, which the owner and the
permissions of the file prevent, or the seal of a saved chat.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

FORMAT = "1"  # grows when files of before must not be read
START = b'{"__metadata__":{"checksum":"'
DIGITS = 64  # of a SHA-256, in hexadecimal
MAX_HEADER_BYTES = 2**20
TAGS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32}

Buffer = bytes | memoryview
Arrays = dict[str, mx.array]


def encode(arrays: Mapping[str, mx.array], metadata: Mapping[str, str]) -> list[Buffer]:
    """Return the content of a file, in parts; it waits for the arrays."""
    mx.eval(list(arrays.values()))
    tags = {dtype: tag for tag, dtype in TAGS.items()}
    about = {"checksum": "0" * DIGITS, "format": FORMAT, **metadata}
    header: dict[str, Any] = {"__metadata__": about}
    parts: list[Buffer] = []
    end = 0
    for name, array in arrays.items():
        data = np.asarray(mx.contiguous(array).reshape(-1).view(mx.uint8)).data
        begin, end = end, end + len(data)
        entry = {"dtype": tags[array.dtype], "shape": array.shape, "data_offsets": [begin, end]}
        header[name] = entry
        parts.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    begin = 8 + len(START)
    checksum = _checksum([head[:8], head[begin + DIGITS :], *parts])
    return [head[:begin] + checksum + head[begin + DIGITS :], *parts]


def write_new(path: Path, parts: Sequence[Buffer]) -> None:
    """Write a file that only its owner can read.

    Raises:
        OSError: there is such a file already, or it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.writelines(parts)


def checksum_of(data: Buffer) -> bytes:
    """Return the checksum that the beginning of a file claims.

    Raises:
        ValueError: it is not the beginning of such a file.
    """
    begin = 8 + len(START)
    if data[8:begin] != START:
        raise ValueError("it is no file of the cache")
    return bytes(data[begin : begin + DIGITS])


def decode(data: bytes) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays and the metadata of a file.

    Raises:
        ValueError: it is not a whole file of this format.
    """
    begin = 8 + len(START)
    rest = memoryview(data)
    if checksum_of(data) != _checksum([rest[:8], rest[begin + DIGITS :]]):
        raise ValueError("it is damaged")
    try:
        header, end = _header(data)
        about = header.pop("__metadata__")
        arrays = {name: _array(rest[end:], entry) for name, entry in header.items()}
    except (KeyError, TypeError, AttributeError, RuntimeError, struct.error) as error:
        raise ValueError(f"it is no file of the cache: {error!r}") from None
    return arrays, about


def read_about(data: bytes) -> dict[str, str]:
    """Return the metadata of a file from its first bytes, without looking at the checksum.

    Raises:
        ValueError: they are not those of such a file.
    """
    checksum_of(data)
    try:
        about = _header(data)[0]["__metadata__"]
        return {str(key): str(value) for key, value in about.items()}
    except (KeyError, AttributeError, struct.error, RecursionError) as error:
        raise ValueError(f"it is no file of the cache: {error!r}") from None


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header, and where the arrays begin."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > MAX_HEADER_BYTES:
        raise ValueError("its header is too long")
    header = json.loads(data[8 : 8 + length])
    if header["__metadata__"]["format"] != FORMAT:
        raise ValueError("another version has written it")
    return header, 8 + length


def _array(data: memoryview, entry: Mapping[str, Any]) -> mx.array:
    first, last = entry["data_offsets"]
    found = mx.array(np.frombuffer(data[first:last], np.uint8))
    return found.view(TAGS[entry["dtype"]]).reshape(entry["shape"])


def _checksum(parts: Sequence[Buffer]) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest().encode()
