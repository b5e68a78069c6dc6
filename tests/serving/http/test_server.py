"""The server on real sockets: slow and rude clients, limits of connections, its end."""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_core import ScriptedCore, make_app, pieces
from uvicorn.protocols.http.flow_control import FlowControl

from mlx_lfm2vl.errors import InputError, Lfm2VLError
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.serving.http import server as http_server
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.server import Patience, listen

HEAD = "POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Running:
    """A server in a thread."""

    def __init__(self, core: Any, patience: Patience, idle_seconds: float | None = None) -> None:
        self.core = core
        self.listener = listen("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        app = make_app(core, access=Access(*self.address, names=("localhost",)))
        ready = threading.Event()
        self.server = http_server._Server(
            app, core, patience, ready.set, lambda: None, idle_seconds
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert ready.wait(60)

    def _run(self) -> None:
        import asyncio

        asyncio.run(self.server.serve([self.listener]))

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 20)

    def end(self) -> None:
        if not self.server.should_exit:
            self.server.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running(
    core: Any = None, idle_seconds: float | None = None, **patience: Any
) -> Iterator[Running]:
    server = Running(core or ScriptedCore(pieces("Hi")), Patience(**patience), idle_seconds)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def impatient() -> Iterator[Running]:
    """A server that waits a fifth of a second for anything, and answers ten megabytes."""
    core = ScriptedCore(pieces("x" * 10_000_000))
    with running(core, head=0.2, stalled=0.2, connections=4, grace=1) as server:
        yield server


def question(body: bytes = b'{"prompt": "Hello"}', head: str = HEAD) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side closes the connection."""
    chunks = []
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(2**20):
            chunks.append(chunk)
    return b"".join(chunks)


def read_reply(sock: socket.socket) -> tuple[bytes, Any]:
    """Read one answer; return its first line and the object it holds."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(2**16)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(re.findall(rb"content-length: (\d+)", head)[0])
    while len(body) < length:
        body += sock.recv(2**16)
    return head.partition(b"\r\n")[0], json.loads(body)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_connection_serves_question_after_question(impatient):
    with impatient.connect() as sock:
        for _ in range(2):
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_reply(sock) == (b"HTTP/1.1 200 OK", {"status": "ok"})


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHo"], ids=["nothing", "a part"])
def test_headers_that_do_not_come_are_waited_for_so_long(impatient, sent):
    with impatient.connect() as sock:
        begun = time.monotonic()
        sock.sendall(sent)
        assert read_all(sock) == b""
        assert 0.15 < time.monotonic() - begun < 5


def test_headers_that_trickle_in_have_no_longer_time(impatient):
    with impatient.connect() as sock:
        begun = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in b"GET /health HTTP/1.1\r\nX: " + b"a" * 600:
                sock.sendall(bytes([byte]))
                time.sleep(0.02)
        assert time.monotonic() - begun < 6


def test_a_client_that_reads_nothing_is_cut_off(impatient):
    before = len(impatient.core.asked)
    with impatient.connect() as sock:
        sock.sendall(question())
        until(lambda: len(impatient.core.asked) > before)
        until(lambda: not impatient.server.server_state.connections)
        assert len(read_all(sock)) < 10_000_000


class Timers:
    """The timers of a connection, which run when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def call_later(self, _seconds: float, act: Any) -> Any:
        self.waiting.append(act)
        return SimpleNamespace(cancel=lambda: self.waiting.remove(act))


@pytest.fixture
def connection() -> Any:
    """A connection without a socket, of whose answer 100 bytes are unread."""
    connection: Any = http_server._Connection.__new__(http_server._Connection)
    connection.loop, connection._patience = Timers(), Patience()
    connection._reading = connection._writing = None
    connection.unread, connection.is_cut = 100, []
    connection.transport = SimpleNamespace(
        get_write_buffer_size=lambda: connection.unread,
        abort=lambda: connection.is_cut.append(True),
        pause_reading=lambda: None,
    )
    connection.flow = FlowControl(connection.transport)
    return connection


def test_a_client_that_reads_a_little_has_more_time(connection):
    connection.pause_writing()
    connection.unread = 90
    connection.loop.waiting.pop()()
    assert not connection.is_cut
    connection.loop.waiting.pop()()
    assert connection.is_cut


def test_a_client_that_reads_on_is_not_cut_off_later(connection):
    connection.pause_writing()
    connection.resume_writing()
    assert connection.loop.waiting == []


def test_headers_in_several_parts_have_one_time(connection):
    connection._limit_reading()
    connection._limit_reading()
    assert len(connection.loop.waiting) == 1


def test_a_body_that_was_refused_is_thrown_away_for_a_while(impatient):
    with impatient.connect() as sock:
        begun = time.monotonic()
        sock.sendall(f"{HEAD}Content-Length: 900000000\r\n\r\n".encode())
        assert read_reply(sock)[1]["error"]["code"] == "body_too_large"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - begun < 12:
                sock.sendall(b"x")
                time.sleep(0.02)
        assert time.monotonic() - begun < 6


def test_a_connection_too_many_is_turned_away(impatient):
    with contextlib.ExitStack() as stack:
        *_, last = [stack.enter_context(impatient.connect()) for _ in range(4)]
        with impatient.connect() as sock:
            assert read_all(sock).startswith(b"HTTP/1.1 503 Service Unavailable")
        last.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_reply(last)[1] == {"status": "ok"}
    until(lambda: not impatient.server.server_state.connections)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2_000_000,
    ],
    ids=["tls", "two hosts", "long headers"],
)
def test_what_is_no_request_is_refused_and_cut_off(impatient, sent):
    with impatient.connect() as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(sent)
        assert read_all(sock).startswith(b"HTTP/1.1 400")


def test_a_client_that_closes_its_socket_cancels_its_question():
    with running(ScriptedCore()) as server:
        sock = server.connect()
        sock.sendall(question(b'{"prompt": "Hello", "stream": true}'))
        until(lambda: server.core.asked)
        sock.close()
        until(lambda: server.core.asked[0].is_cancelled)


def test_a_running_answer_is_finished_before_the_server_ends():
    core = ScriptedCore()
    with running(core, grace=5) as server:
        sock = server.connect()
        sock.sendall(question(b'{"prompt": "Hello", "stream": true}'))
        until(lambda: core.asked)
        core.asked[0].deliver(Piece("a", [1]))
        server.server.stop()
        until(lambda: core.stopped == [5])
        until(lambda: server.listener.fileno() == -1)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        assert server.thread.is_alive()
        assert server.server._app.is_stopping
        core.asked[0].deliver(pieces("b")[0])
        assert b'data: {"text":"b"}' in read_all(sock)
        sock.close()


def test_a_server_ends_when_nobody_has_asked_for_a_while():
    with running(idle_seconds=0.2) as server:
        with server.connect() as sock:
            sock.sendall(question())
            assert read_reply(sock)[1] == {"texts": ["Hi"]}
        server.thread.join(60)
        assert not server.thread.is_alive()


def test_a_port_in_use_is_one_line():
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Lfm2VLError, match=f"port {port} of 127.0.0.1 is in use"):
            listen("127.0.0.1", port)


def test_a_name_with_two_addresses_is_that_of_ipv4(monkeypatch):
    kind = (socket.SOCK_STREAM, 6, "")
    six = (socket.AF_INET6, *kind, ("::1", 0, 0, 0))
    found = [six, (socket.AF_INET, *kind, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_an_address_of_another_machine_and_a_port_of_root_are_refused(monkeypatch):
    with pytest.raises(InputError, match="cannot be used"):
        listen("192.0.2.1", 8080)
    with pytest.raises(InputError, match="no address"):
        listen("no such name.invalid", 8080)

    def refuse(*_: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(http_server.socket, "socket", lambda *_: Refusing(refuse))
    with pytest.raises(InputError, match="kept for root"):
        listen("127.0.0.1", 80)


class Refusing:
    def __init__(self, bind: Any) -> None:
        self.bind = bind

    def setsockopt(self, *_: object) -> None: ...

    def close(self) -> None: ...
