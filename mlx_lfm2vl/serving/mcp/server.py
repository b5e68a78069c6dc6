"""A server of MCP: answers the messages of one client, and calls tools for it.

- Pings and cancellations are answered while a tool runs; see `calls`.
- Whatever a line holds, the server answers it and lives on.
- It knows nothing of models and images; see `Toolbox`.

The protocol is https://modelcontextprotocol.io/specification; see `versions`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from .calls import Call, Calls
from .messages import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Id,
    Json,
    ProtocolError,
    failure,
    parse_line,
    read_lines,
    request_id,
    result,
    to_line,
)
from .versions import discovered, initialized, is_stateless, meta_of, stamped

MAX_BATCH = 50  # messages of a line

Reply = Callable[[Json | None], object]


class Toolbox(Protocol):
    """The tools that a client may call.

    Attributes:
        instructions: what an agent should know of all of them.
        listed: the tools as `tools/list` shows them.
    """

    instructions: str
    listed: list[Json]

    def run(self, name: str, arguments: Json, call: Call) -> Json:
        """Run a tool of this name; returns a `CallToolResult`.

        Raises:
            Lfm2VLError: the tool cannot do it.
        """
        ...


class Server:
    """Answers one client, from its first line to the end of its input."""

    def __init__(
        self, toolbox: Toolbox, out: BinaryIO, on_gone: Callable[[], object] = lambda: None
    ) -> None:
        """
        Args:
            toolbox: the tools.
            out: where messages to the client go; nothing else may.
            on_gone: called once when the client reads no more, by any thread.
        """
        self._toolbox, self._calls = toolbox, Calls()
        self._names = {tool["name"] for tool in toolbox.listed}
        self._out, self._on_gone = out, on_gone
        self._writing, self._is_gone = threading.Lock(), False

    def serve(self, stream: BinaryIO) -> None:
        """Answer the lines of a stream until it ends. Calls under way are cancelled then."""
        try:
            for line in read_lines(stream):
                self._answer(line)
        finally:
            self._calls.end()

    def _send(self, message: Json | list[Json]) -> None:
        line = to_line(message)
        with self._writing:
            if self._is_gone:
                return
            try:
                self._out.write(line)
                self._out.flush()
            except (OSError, ValueError):  # a broken pipe, or closed already
                self._is_gone = True
                self._on_gone()

    def _answer(self, line: bytes | None) -> None:
        try:
            read = parse_line(line)
            messages = read if isinstance(read, list) else [read]
            if not 0 < len(messages) <= MAX_BATCH:
                text = f"a batch has {len(messages)} messages, expected 1 to {MAX_BATCH}"
                raise ProtocolError(INVALID_REQUEST, text)
        except ProtocolError as error:
            self._send(failure(None, error))
            return
        replies = _Replies(self._send, len(messages), is_batch=isinstance(read, list))
        for message in messages:
            self._handle(message, replies.add)

    def _handle(self, message: object, reply: Reply) -> None:
        """Answer one message, now or when its tool has answered."""
        number = None
        try:
            if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
                raise ProtocolError(INVALID_REQUEST, "a message is no object of JSON-RPC 2.0")
            if "method" not in message and ("result" in message or "error" in message):
                reply(None)  # to a question that this server has not asked
                return
            number = request_id(message)
            method, params = message.get("method"), message.get("params", {})
            if not isinstance(method, str):
                raise ProtocolError(INVALID_REQUEST, "a message names no method")
            if "id" not in message:
                self._notice(method, params)
                reply(None)
                return
            if number is None:
                raise ProtocolError(INVALID_REQUEST, "an id is neither text nor a number")
            if not isinstance(params, dict):
                raise ProtocolError(INVALID_PARAMS, "params is no object")
            self._request(number, method, params, reply)
        except ProtocolError as error:
            reply(failure(number, error))

    def _notice(self, method: str, params: object) -> None:
        """Take a notification; the others say nothing to this server."""
        if method == "notifications/cancelled" and isinstance(params, dict):
            number = request_id({"id": params.get("requestId")})
            if number is not None:
                self._calls.cancel(number)

    def _request(self, number: Id, method: str, params: Json, reply: Reply) -> None:
        """Answer a request.

        Raises:
            ProtocolError: it breaks the protocol.
        """
        stateless = is_stateless(params)

        def done(outcome: Json | ProtocolError | None) -> None:
            if isinstance(outcome, ProtocolError):
                reply(failure(number, outcome))
            elif outcome is None:
                reply(None)
            else:
                reply(result(number, stamped(method, outcome) if stateless else outcome))

        if method == "tools/call":
            self._call(number, params, done)
        elif method == "tools/list":
            done({"tools": self._toolbox.listed})
        elif method == "ping":
            done({})
        elif method == "initialize":
            done(initialized(params, self._toolbox.instructions))
        elif method == "server/discover":
            done(discovered(self._toolbox.instructions))
        else:
            raise ProtocolError(METHOD_NOT_FOUND, f"there is no method {method!r:.80}")

    def _call(
        self, number: Id, params: Json, done: Callable[[Json | ProtocolError | None], object]
    ) -> None:
        name, arguments = params.get("name"), params.get("arguments")
        given = {} if arguments is None else arguments
        if not isinstance(name, str) or name not in self._names:
            raise ProtocolError(INVALID_PARAMS, f"there is no tool {name!r:.80}")
        if not isinstance(given, dict):
            raise ProtocolError(INVALID_PARAMS, "the arguments are no object")
        call = Call(self._send, _progress_token(params))
        self._calls.add(number, call, lambda call: self._toolbox.run(name, given, call), done)


class _Replies:
    """The responses to one line. Those to a batch are one array, sent with the last of them."""

    def __init__(self, send: Callable[[Any], object], messages: int, *, is_batch: bool) -> None:
        self._send, self._is_batch, self._left = send, is_batch, messages
        self._lock = threading.Lock()
        self._responses: list[Json] = []

    def add(self, response: Json | None) -> None:
        """Take the response to one message; None if it gets none."""
        with self._lock:
            self._left -= 1
            if response is not None:
                self._responses.append(response)
            is_complete = self._left == 0 and bool(self._responses)
        if is_complete:
            self._send(self._responses if self._is_batch else self._responses[0])


def _progress_token(params: Json) -> str | int | None:
    token = meta_of(params).get("progressToken")
    is_token = isinstance(token, str | int) and not isinstance(token, bool)
    return token if is_token else None
