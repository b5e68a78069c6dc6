"""The calls of a resident process, over a Unix socket of which only its user knows.

It needs the standard library alone: one thread for each call, and the model's own.

- `POST /v1/lfm2vl/open`: load the model, unless it is there.
- `POST /v1/lfm2vl/answer`: answer, or score answers; see `wire`.
- `POST /v1/lfm2vl/stop`: end, as by SIGTERM.
- `POST /v1/chat/completions`, `/v1/responses`, `/v1/skills/NAME`: as the server answers them.
- `GET /v1/lfm2vl/fingerprint`: of the weights, for the records of `run`.
- `GET /health`: what the process is doing.
- `GET /v1/models`: the name of the model, as OpenAI's clients ask for it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from http.server import BaseHTTPRequestHandler
from queue import Empty, SimpleQueue
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

from ...errors import Lfm2VLError
from ..core import Core, Limits
from ..exchange import Read, Terms
from ..http.errors import error_reply, is_internal
from ..protocol.json_body import parse_object
from ..request import Stopping, is_last
from ..served import Served
from .model import ResidentModel
from .notes import Notes
from .place import BUILD, Wanted, peer_of
from .protocol import reader_of, stream, whole
from .wire import Alive, Note, Opened, error_values, read_request, write_event

UNUSED_SECONDS = 60.0  # after which a process ends that nobody has asked for anything
PING_SECONDS = 1.0  # of silence after which a call is told that the process is at work
SEND_SECONDS = 30.0  # that a client may take for a part of its request
MAX_LOG = 2**20  # bytes of the log; a longer one is begun again
MAX_WAITING = 1000  # questions; all of one user
TO_FETCH = "let the command fetch it: mlx_lfm2vl generate --resident --allow-url --image ADDRESS"
MAX_BODY = 2**32  # bytes of a request; the client has read them under its own limits


class ResidentServer(ThreadingMixIn, UnixStreamServer):
    """Takes calls for one model.

    Attributes:
        model: what is asked.
        keep_alive: seconds without a call after which the process may end; None is never.
        ends: is set when the process shall end.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, wanted: Wanted) -> None:
        """
        Args:
            path: of the socket, where nothing is.
            wanted: the model.

        Raises:
            OSError: the socket cannot be made.
        """
        before = os.umask(0o177)
        try:
            super().__init__(path, _Handler)
        finally:
            os.umask(before)
        self.notes = Notes()
        self.model = ResidentModel(wanted, self.notes)
        served = Served(wanted.model, lambda: self.model.engine, self.model.info)
        self.core = Core([served], Limits(waiting=MAX_WAITING))
        self.keep_alive: float | None = UNUSED_SECONDS
        self.ends = threading.Event()
        self._lock = threading.Lock()
        self._calls = 0
        self._idle_since = time.monotonic()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a call that keeps the process alive."""
        with self._lock:
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._idle_since = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last call ended; 0 during one."""
        with self._lock:
            return 0.0 if self._calls else time.monotonic() - self._idle_since

    def status(self) -> dict[str, Any]:
        """Return what the process is doing, as plain data."""
        return {
            "status": "ok",
            **asdict(self.model.wanted),
            "pid": os.getpid(),
            "memory_bytes": self.model.memory_bytes,
            "calls": self._calls,
            "idle_seconds": round(self.idle_seconds, 1),
            "keep_alive_seconds": self.keep_alive,
            "build": BUILD,
        }

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Refuse other users, whatever the modes of the folder and the socket are."""
        try:
            return peer_of(request).uid == os.getuid()
        except OSError:
            return False

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Write an error that nobody expected into the log, but nothing that a request held."""
        error = sys.exc_info()[1]
        if error is None or isinstance(error, OSError):  # which a client that leaves causes
            return
        text = str(error) if isinstance(error, Lfm2VLError) else type(error).__name__
        log("".join([*traceback.format_tb(error.__traceback__), text]))


class _Unread(Exception):
    """There is no body to go on with."""


class _Handler(BaseHTTPRequestHandler):
    """One call."""

    server: ResidentServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = SEND_SECONDS

    def do_GET(self) -> None:
        """Reply to a question about the process."""
        if self.path == "/health":
            self._send(200, self.server.status())
        elif self.path == "/v1/models":
            model = {"id": self.server.model.wanted.model, "object": "model", "owned_by": "user"}
            self._send(200, {"object": "list", "data": [model]})
        elif self.path == "/v1/lfm2vl/fingerprint":
            with self.server.busy():
                self._send(200, {"hex": self.server.model.engine.content_fingerprint().hex()})
        else:
            self._refuse(404, Lfm2VLError(f"there is no {self.path:.80}"))

    def do_POST(self) -> None:
        """Load, answer or stop."""
        calls: dict[str, Callable[[], None]] = {
            "/v1/lfm2vl/open": self._open,
            "/v1/lfm2vl/answer": self._answer,
        }
        read = reader_of(self.path)
        if read is not None:
            calls[self.path] = partial(self._exchange, read)
        if self.path == "/v1/lfm2vl/stop":
            self._send(200, {"pid": os.getpid()})
            self.server.ends.set()
        elif self.path in calls:
            with self.server.busy(), suppress(_Unread):
                calls[self.path]()
        else:
            self._refuse(404, Lfm2VLError(f"there is no {self.path:.80}"))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is asked is nobody's business."""

    def _body(self) -> bytes:
        """Read the body. It can be large: whoever calls this keeps no more of it than he needs.

        Raises:
            _Unread: it is no body, which is replied to, or the client has left.
        """
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self._refuse(413, Lfm2VLError(f"a body of {length:.20} bytes is not read"))
            raise _Unread
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise _Unread
        return body

    def _open(self) -> None:
        try:
            values = json.loads(self._body())
            wanted = Wanted(**{**values["wanted"], "adapters": tuple(values["wanted"]["adapters"])})
            build, keep_alive = values["build"], values["keep_alive"]
        except (ValueError, LookupError, TypeError) as error:
            self._refuse(400, error)
            return
        model = self.server.model
        if build != BUILD or wanted != model.wanted or not model.is_current():
            self._refuse(409, Lfm2VLError("another version is in memory"))
            return
        self.server.keep_alive = keep_alive
        events: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=_load, args=(model, events.put), daemon=True).start()
        self._begin()
        if not self._relay(events, lambda event: isinstance(event, Opened | Exception)):
            self.server.ends.set()  # a process without a model is of no use

    def _answer(self) -> None:
        try:
            request = read_request(self._body())
        except (Lfm2VLError, ValueError, LookupError, TypeError) as error:
            self._refuse(400, error)
            return
        self._begin()
        events: SimpleQueue[Any] = SimpleQueue()
        try:
            with self.server.notes.to(events.put):
                ticket = self.server.core.submit(request, events.put)
        except Stopping:  # the client starts another process when this one hangs up
            return
        except Lfm2VLError as error:  # told to the client, as a command tells it
            self.wfile.write(write_event(error))
            return
        del request  # the core frees its images with it
        try:
            self._relay(events, is_last)
        finally:
            ticket.cancel()

    def _exchange(self, read: Read) -> None:
        """Answer in a protocol of the server."""
        core = self.server.core
        try:
            exchange = read(parse_object(self._body()), Terms(core.model, to_fetch=TO_FETCH))
            if not exchange.streams:
                self._send(200, whole(exchange, core, self._is_left))
                return
            events = stream(exchange, core, self._is_left)
            first = next(events)
        except (OSError, _Unread):  # the client has left
            raise
        except Exception as error:  # of a fault of our own, too, the client is told
            status, _, values = error_reply(error)
            self._send(status, values)
            if is_internal(error):
                raise  # into the log
            return
        self._begin("text/event-stream; charset=utf-8")
        self.wfile.write(first)
        for data in events:
            self.wfile.write(data)

    def _relay(self, events: SimpleQueue[Any], is_end: Callable[[Any], bool]) -> bool:
        """Send events until the last; return whether that is no error.

        It ends before, too, if the client leaves.
        """
        while True:
            try:
                event = events.get(timeout=PING_SECONDS)
            except Empty:
                if self._is_left():
                    return True
                event = Alive()
            if isinstance(event, Stopping):  # see `_answer`
                return True
            self.wfile.write(write_event(event))
            if not isinstance(event, Alive | Note) and is_end(event):
                return not isinstance(event, Exception)

    def _is_left(self) -> bool:
        """Whether the client has closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _begin(self, kind: str = "application/x-ndjson") -> None:
        self.send_response_only(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        # A client that pauses, as after Ctrl-Z, reads on later. One that ends closes its end.
        self.connection.settimeout(None)

    def _refuse(self, status: int, error: Exception) -> None:
        self._send(status, {"error": error_values(error)})

    def _send(self, status: int, values: dict[str, Any]) -> None:
        data = json.dumps(values).encode() + b"\n"
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _load(model: ResidentModel, tell: Callable[[Any], object]) -> None:
    """Load the model and tell what that has noted, and how it went."""
    try:
        opened: Opened | Exception = model.opened()
    except Exception as error:  # noqa: BLE001  told to the client, as a command tells it
        opened = error
    for note in model.loading_notes:
        tell(note)
    tell(opened)


def log(text: str) -> None:
    """Write a line into the log of the process, which is its standard error.

    A disk that is full is no reason to end.
    """
    with suppress(OSError):
        if os.fstat(2).st_size > MAX_LOG:
            os.ftruncate(2, 0)
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n".encode())
