"""The messages of MCP: JSON-RPC 2.0, one a line, as bytes and as Python objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

MAX_LINE = 2**20  # bytes; images come by path, so that only schemas are long
PARSE_ERROR, INVALID_REQUEST = -32700, -32600
METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32601, -32602, -32603

Json = dict[str, Any]
Id = str | int | float


class ProtocolError(Exception):
    """A message that breaks the protocol.

    Attributes:
        code: of JSON-RPC.
        data: for programs; None has none.
    """

    def __init__(self, code: int, text: str, data: Any = None) -> None:
        super().__init__(text)
        self.code, self.data = code, data


def read_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a stream that are not blank; None stands for one over `MAX_LINE`.

    Memory does not grow with the length of a line.
    """
    while line := stream.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE or line.endswith(b"\n"):
            if line.strip():
                yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
        yield None


def parse_line(line: bytes | None) -> Any:
    """Return what a line of `read_lines` holds.

    Raises:
        ProtocolError: it is no JSON, or was too long.
    """
    if line is None:
        raise ProtocolError(INVALID_REQUEST, f"a line has over {MAX_LINE} bytes, the limit")
    try:
        return json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(PARSE_ERROR, f"a line is no JSON: {str(error)[:200]}") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def to_line(message: Json | list[Json]) -> bytes:
    """Return a message as a line. It is ASCII, so no text can break it."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def request_id(message: Json) -> Id | None:
    """Return the id of a request; None if it has none that is allowed."""
    found = message.get("id")
    is_id = isinstance(found, str | int | float) and not isinstance(found, bool)
    return found if is_id else None


def result(number: Id, value: Json) -> Json:
    """Return the response to a request that succeeded."""
    return {"jsonrpc": "2.0", "id": number, "result": value}


def failure(number: Id | None, error: ProtocolError) -> Json:
    """Return the response to a request that broke the protocol; its id may not be known."""
    data = {} if error.data is None else {"data": error.data}
    return {
        "jsonrpc": "2.0",
        "id": number,
        "error": {"code": error.code, "message": str(error), **data},
    }


def notification(method: str, params: Json) -> Json:
    """Return a message that nobody answers."""
    return {"jsonrpc": "2.0", "method": method, "params": params}
