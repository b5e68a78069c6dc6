"""What every request passes first, and every answer last: access, headers, counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from .access import Access
from .answering import send_object
from .errors import HttpError, error_reply

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "*, Authorization",  # the star does not stand for the other
    "Access-Control-Max-Age": "600",
}
CLIENT_GONE = 499  # nginx's status for a client that went away before its answer


@dataclass(frozen=True)
class Seen:
    """A request that was answered, for a log. It has nothing of what was asked.

    Attributes:
        method: of the request.
        path: without its query.
        status: of the answer, or `CLIENT_GONE`.
        seconds: until the answer was complete.
    """

    method: str
    path: str
    status: int
    seconds: float


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        counts: Counter[tuple[str, int]],
        paths: Mapping[Any, str],
        log: Callable[[Seen], object] | None,
    ) -> None:
        """
        Args:
            app: that answers.
            access: who may ask.
            counts: of requests, by the path of their route and the status.
            paths: of the routes, by endpoint; others are counted together.
            log: told every request; None tells nobody.
        """
        self._app, self._access, self._counts = app, access, counts
        self._paths, self._log = paths, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun, status = time.monotonic(), CLIENT_GONE
        headers: dict[bytes, bytes] = dict(scope["headers"])
        added = _encoded(HEADERS | self._cors(headers))

        async def guarded_send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(pair for pair in added if pair[0] not in own),
                ]
            await send(message)

        try:
            await self._answer(scope, headers, receive, guarded_send)
        finally:
            path = self._paths.get(scope.get("endpoint"), "other")
            self._counts[path, status] += 1
            if self._log is not None:
                seconds = time.monotonic() - begun
                self._log(Seen(scope["method"], scope["path"], status, seconds))

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        is_preflight = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        try:
            # A browser asks without a token whether it may send one.
            self._access.check(scope["path"], headers, needs_token=not is_preflight)
        except HttpError as error:
            status, extra, described = error_reply(error)
            await send_object(send, described, status, extra)
            return
        if is_preflight:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)

    def _cors(self, headers: dict[bytes, bytes]) -> dict[str, str]:
        """Return the headers that let a page of another site read the answer."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not self._access.is_named(origin):
            return {}
        named = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        return named | (PREFLIGHT if b"access-control-request-method" in headers else {})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), text.encode()) for name, text in headers.items()]
