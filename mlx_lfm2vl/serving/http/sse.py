"""Server-sent events: frames as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ..exchange import Frame

PING = b": ping\n\n"  # a comment, which clients skip


def encoded(frames: Iterable[Frame]) -> bytes:
    """Return frames as they are sent."""
    return b"".join(map(_encoded, frames))


def to_json(value: object) -> bytes:
    """Return a value as JSON in UTF-8.

    Raises:
        ValueError: a number is infinite or none.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _encoded(frame: Frame) -> bytes:
    data = frame.data.encode() if isinstance(frame.data, str) else to_json(frame.data)
    name = f"event: {frame.event}\n".encode() if frame.event else b""
    return b"%sdata: %s\n\n" % (name, data)
