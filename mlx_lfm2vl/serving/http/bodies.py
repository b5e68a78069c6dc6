"""Bodies of requests: read within bounds of size and time, and parsed as one JSON object."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import InputError
from ..request import Busy
from .errors import HttpError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_DEPTH = 100  # of objects and lists in one another
MAX_VALUES = 500_000  # a value takes up to 100 times the memory of its text


@dataclass(frozen=True)
class BodyLimits:
    """How large and how slow bodies may be.

    Attributes:
        one: most bytes of a body.
        together: most bytes of the bodies of all requests under way, and of what was fetched.
        patience: seconds for a body of any size.
        slowest: bytes per second of a body that needs longer.
    """

    one: int = 64 * 2**20
    together: int = 2**30
    patience: float = 20.0
    slowest: float = 64 * 2**10


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class Bodies:
    """Reads bodies, and knows how many bytes of them are in memory."""

    def __init__(self, limits: BodyLimits) -> None:
        self.limits = limits
        self._held = 0

    @asynccontextmanager
    async def read(
        self, headers: Iterable[tuple[bytes, bytes]], receive: Receive
    ) -> AsyncGenerator[bytes, None]:
        """Read a body, and count its bytes until the context ends.

        Raises:
            HttpError: it is not JSON, too large or too slow.
            Busy: there is no memory left for it.
            ClientGone: the client has gone.
        """
        named = dict(headers)
        _check_type(named)
        length = named.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.one:
            raise self._too_large()
        body = bytearray()
        begun, counted = time.monotonic(), 0
        try:
            more = True
            while more:
                deadline = begun + self.limits.patience + len(body) / self.limits.slowest
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        message = await receive()
                except TimeoutError:
                    raise HttpError(
                        408, "the body came too slowly: send it again", "slow_body"
                    ) from None
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                body += chunk
                counted += len(chunk)
                self._add(len(chunk))
                if len(body) > self.limits.one:
                    raise self._too_large()
                more = message.get("more_body", False)
            yield bytes(body)
        finally:
            self._held -= counted

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Count bytes that belong to a request, besides its body, until the context ends.

        Raises:
            Busy: there is no memory left for them.
        """
        try:
            self._add(count)
            yield
        finally:
            self._held -= count

    def _add(self, count: int) -> None:
        self._held += count
        if self._held > self.limits.together:
            raise Busy("other requests take the memory for images; try again later", 5)

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            f"the body has more than {self.limits.one:,} bytes, the limit: send fewer or smaller "
            "images",
            "body_too_large",
        )


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a body.

    Raises:
        InputError: it is not an object of JSON in UTF-8, or it is too deep or has too many values.
    """
    if sum(body.count(mark) for mark in b",[{") > MAX_VALUES:
        raise InputError(f"the body has more than {MAX_VALUES:,} values, the limit")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise InputError("the body is not UTF-8, expected JSON in UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a number of thousands of digits, too
        # Python goes on with advice for its programmer.
        raise InputError(f"the body is not JSON: {str(error).partition('; ')[0]}") from None
    if not isinstance(value, dict):
        raise InputError(f"the body is a {type(value).__name__}, expected a JSON object")
    _check_values(value)
    return value


def _check_type(headers: dict[bytes, bytes]) -> None:
    """Refuse what a form of another site could send, and compressed bodies."""
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(
            415,
            f"Content-Type is {kind or 'absent'!r:.60}, expected application/json",
            "unsupported_content_type",
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HttpError(
            415, "the body is compressed, expected plain JSON", "unsupported_content_encoding"
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _check_values(value: object) -> None:
    """Refuse depth that would exhaust the stack, and halves of characters."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for each in level:
            if isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str) and not each.isascii():
                _check_text(each)
        if not inner:
            return
        level = inner
    raise _too_deep()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("a text has half of a surrogate pair, which is no character") from None


def _too_deep() -> InputError:
    return InputError(f"the body is nested more than {MAX_DEPTH} levels deep, the limit")
