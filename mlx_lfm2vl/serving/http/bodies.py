"""Bodies of requests, read within bounds of size and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..request import Busy
from .errors import HttpError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Count = Callable[[int], None]  # takes bytes, and raises `Busy` if there is no memory left for them


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
    ) -> AsyncGenerator[bytearray, None]:
        """Read a body, and count its bytes until the context ends; `clear` frees them before.

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
        body, begun = bytearray(), time.monotonic()
        with self.counting() as count:
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
                count(len(chunk))
                if len(body) > self.limits.one:
                    raise self._too_large()
                more = message.get("more_body", False)
            yield body

    @contextmanager
    def counting(self) -> Iterator[Count]:
        """Provide a function that counts bytes of a request, until the context ends."""
        counted = 0

        def count(size: int) -> None:
            nonlocal counted
            counted, self._held = counted + size, self._held + size
            if self._held > self.limits.together:
                raise Busy("other requests take the memory for images; try again later", 5)

        try:
            yield count
        finally:
            self._held -= counted

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            f"the body has more than {self.limits.one:,} bytes, the limit: send fewer or smaller "
            "images",
            "body_too_large",
        )


def _check_type(headers: dict[bytes, bytes]) -> None:
    """Refuse what a form of another site could send, and compressed bodies."""
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(
            415,
            f"Content-Type is {repr(kind) if kind else 'absent':.60}, expected application/json",
            "unsupported_content_type",
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HttpError(
            415, "the body is compressed, expected plain JSON", "unsupported_content_encoding"
        )
