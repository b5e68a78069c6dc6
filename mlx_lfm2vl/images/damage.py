"""What is wrong with a file whose pixels a decoder cannot read, in words of ours."""

import struct
import zlib

from PIL import Image


class DamageError(ValueError):
    """The pixels of a file cannot be read, for the reason given."""


# Errors that Pillow's decoders raise on damaged files.
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    AssertionError,  # of a PIL image whose file was closed
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Words in messages of Pillow and its libraries.
CUT = ("truncated", "not enough", "end of file", "eof", "no more data", "too short", "incomplete")
BROKEN = ("broken data", "decod", "frame", "corrupt", "decompress", "data stream")


def reason(error: BaseException) -> str:
    """Tell the kind of damage from a decoder's error, whose own words mean nothing to users."""
    text = str(error).lower()
    if isinstance(error, DamageError):
        return str(error)
    if isinstance(error, AssertionError) or "closed" in text:
        return "its file was closed before it was decoded"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, Image.DecompressionBombError):
        return "it has far more pixels than its header says"
    if isinstance(error, EOFError) or any(word in text for word in CUT):
        return "the file is cut off"
    if isinstance(error, zlib.error) or any(word in text for word in BROKEN):
        return "its pixels cannot be decoded"
    return "its structure is broken"
