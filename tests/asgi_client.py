"""An HTTP client in the event loop of an ASGI application: slow or gone, as a test likes."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1:8080"


@dataclass
class Reply:
    """What an application has sent.

    Attributes:
        status: of the answer; 0 before it.
        headers: by their names in lower case.
        body: all of it, so far.
        is_complete: whether the application said that nothing follows.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        """The server-sent events and comments."""
        assert self.headers["content-type"] == "text/event-stream; charset=utf-8"
        return self.body.decode().split("\n\n")[:-1]


class Client:
    """One request that is under way."""

    def __init__(
        self, app: Any, method: str, path: str, headers: dict[str, str], body: bytes | None
    ):
        path, _, query = path.partition("?")
        self.reply = Reply()
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8080),
        }
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if body is not None:  # else it follows
            self.send_body(body)
        self.reads = asyncio.Event()  # cleared: the client reads nothing
        self.reads.set()
        self.task = asyncio.create_task(app(self._scope, self._incoming.get, self._take))

    def send_body(self, body: bytes, *, more: bool = False) -> None:
        message = {"type": "http.request", "body": body}
        self._incoming.put_nowait(message | ({"more_body": True} if more else {}))

    def leave(self) -> None:
        """Close the connection."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def _take(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.reply.status = message["status"]
            self.reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            assert len(self.reply.headers) == len(message["headers"])  # none is there twice
        else:
            self.reply.body += message.get("body", b"")
            self.reply.is_complete = not message.get("more_body", False)
            length = self.reply.headers.get("content-length")
            assert not (self.reply.is_complete and length) or int(length) == len(self.reply.body)

    async def finished(self) -> Reply:
        await self.task
        return self.reply


def request(
    app: Any,
    path: str,
    value: Any = None,
    *,
    method: str = "",
    body: bytes | None = None,
    **headers: str,
) -> Client:
    """Begin a request: a GET, or a POST of a value as JSON.

    Args:
        app: which answers.
        path: with the query.
        value: to post.
        method: instead of GET and POST.
        body: to post, instead of a value.
        **headers: over those of a well-behaved client, with _ for -; an empty one is left out.
    """
    if value is not None:
        body = json.dumps(value).encode()
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    usual = {"host": HOST} | ({"content-type": "application/json"} if body is not None else {})
    named = {name: text for name, text in (usual | given).items() if text}
    return Client(app, method or ("GET" if body is None else "POST"), path, named, body or b"")


async def ask(app: Any, path: str, value: Any = None, **changes: Any) -> Reply:
    """Make a request, and wait for the answer; see `request`."""
    return await request(app, path, value, **changes).finished()
