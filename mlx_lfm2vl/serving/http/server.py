"""A listening socket, and uvicorn on it, with bounds on what a connection may hold up.

By itself uvicorn waits for ever for the headers of a request, and for a client to read its answer.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, cast

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ...errors import InputError, Lfm2VLError
from ..core import Core
from .app import App

INTERRUPTED = 130  # exit code after Ctrl-C
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n"
    b"Retry-After: 5\r\n\r\n"
)


@dataclass(frozen=True)
class Patience:
    """How long a server waits, and for how many.

    Attributes:
        connections: most that are open; more are turned away.
        head: seconds for the headers of a request.
        idle: seconds that a connection stays open between requests.
        stalled: seconds in which a client must read some of what it was sent.
        grace: seconds in which running answers may finish when the server stops.
    """

    connections: int = 128
    head: float = 10.0
    idle: int = 30
    stalled: float = 60.0
    grace: float = 30.0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: a name or an address.
        port: 0 takes one that is free.

    Raises:
        InputError: there is no such address here, or the port may not be used.
        Lfm2VLError: the port is in use.
    """
    place = f"port {port} of {host}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InputError(f"{host} is no address: {error.strerror}") from None
    # Of a name that has both, most clients try the address of IPv4 first.
    family, kind, number, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = socket.socket(family, kind, number)
    try:
        # The port of a server that has just ended is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Lfm2VLError(f"{place} is in use: choose another one with --port") from None
        if error.errno == errno.EACCES:
            raise InputError(f"{place} is kept for root: choose one above 1023") from None
        reason = os.strerror(error.errno or 0)
        raise InputError(f"{place} cannot be used: {reason}") from None
    return listener


def serve(
    app: App,
    core: Core,
    listener: socket.socket,
    patience: Patience,
    on_ready: Callable[[], object],
    on_stop: Callable[[], object],
    idle_seconds: float | None = None,
) -> int:
    """Serve until a signal ends it; a second signal ends it at once.

    Args:
        app: that answers.
        core: of the app. It ends with the server.
        listener: see `listen`.
        patience: bounds of connections.
        on_ready: called when requests are answered.
        on_stop: called when the server begins to end.
        idle_seconds: end after so long without a question; None goes on.

    Returns:
        The exit code of the process.
    """
    server = _Server(app, core, patience, on_ready, on_stop, idle_seconds)
    asyncio.run(server.serve([listener]))
    return server.exit_code


class _Server(Server):
    """uvicorn's server, which ends as a command of this package does.

    Attributes:
        exit_code: of the process.
    """

    def __init__(
        self,
        app: App,
        core: Core,
        patience: Patience,
        on_ready: Callable[[], object],
        on_stop: Callable[[], object],
        idle_seconds: float | None,
    ) -> None:
        connection = partial(_Connection, patience=patience)
        super().__init__(
            Config(
                app,
                http=cast("type[asyncio.Protocol]", connection),
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # it would log every malformed request
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=patience.idle,
                timeout_graceful_shutdown=cast(int, patience.grace + 1),
            )
        )
        self.exit_code = 0
        self._app, self._core, self._grace = app, core, patience.grace
        self._on_ready, self._on_stop, self._idle_seconds = on_ready, on_stop, idle_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        idle = self._idle_seconds
        if idle is not None and not self.should_exit and self._app.idle_seconds() >= idle:
            self.stop()
        return await super().on_tick(counter)

    def stop(self) -> None:
        """Take no more connections, and end when the running answers are finished."""
        self.should_exit = self._app.is_stopping = True
        self._on_stop()
        threading.Thread(target=self._core.stop, args=(self._grace,), daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        code = INTERRUPTED if sig == signal.SIGINT else 0
        if self.should_exit:
            os._exit(code or 1)
        self.exit_code, self.should_exit = code, True
        # Not here: the signal may have come while this thread holds a lock of the core.
        asyncio.get_running_loop().call_soon_threadsafe(self.stop)


class _Connection(H11Protocol):
    """A connection that is cut when it holds a place for too long."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        patience: Patience,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._patience = patience
        self._reading: asyncio.TimerHandle | None = None  # cuts a slow sender
        self._writing: asyncio.TimerHandle | None = None  # cuts a slow reader

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        super().connection_made(transport)
        if len(self.connections) > self._patience.connections:
            transport.write(BUSY)
            transport.close()
            return
        self._limit_reading()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # the headers are not complete
            self._limit_reading()
        elif self.cycle is None or not self.cycle.response_complete:
            self._reading = _cancelled(self._reading)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            # The rest of a refused body is thrown away, for a while: a client that is cut off in
            # the middle of it would not see the answer.
            self._limit_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing = _cancelled(self._writing)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading, self._writing = _cancelled(self._reading), _cancelled(self._writing)
        super().connection_lost(exc)

    def _limit_reading(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self._patience.head, self.transport.abort)

    def _limit_writing(self) -> None:
        """Cut the connection if the client has read nothing until then."""
        left = self.transport.get_write_buffer_size()

        def check() -> None:
            if self.transport.get_write_buffer_size() < left:
                self._limit_writing()
            else:
                self.transport.abort()

        self._writing = self.loop.call_later(self._patience.stalled, check)


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
