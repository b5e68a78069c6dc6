"""The calls of a resident process, without a process."""

import json
import os
import socket
import threading
import time
from contextlib import nullcontext
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from residents import DEMO

from mlx_lfm2vl.errors import CheckpointError, Lfm2VLError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.request import Request, Stopping
from mlx_lfm2vl.serving.resident import process, server
from mlx_lfm2vl.serving.resident.place import BUILD, Peer, Wanted
from mlx_lfm2vl.serving.resident.server import ResidentServer, _Handler
from mlx_lfm2vl.serving.resident.wire import Note, read_event, write_request
from mlx_lfm2vl.serving.served import served_model

OPEN = {"wanted": asdict(DEMO), "build": BUILD, "keep_alive": 1}


def fake(**model: Any) -> Any:
    """A server whose model is a stand-in."""
    model = {"wanted": DEMO, "is_current": lambda: True, "loading_notes": [], **model}
    return SimpleNamespace(model=SimpleNamespace(**model), busy=nullcontext, ends=threading.Event())


def call(target: str, body: bytes, length: object = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST {target} HTTP/1.0\r\nContent-Length: {size}\r\n\r\n".encode() + body


def replied(server: Any, request: bytes, *, fails: type[Exception] | None = None) -> bytes:
    """What a server says to a call, which may then fail."""
    here, there = socket.socketpair()
    with here, here.makefile("rb") as reply:
        here.sendall(request)
        here.shutdown(socket.SHUT_WR)
        with there, pytest.raises(fails) if fails else nullcontext():
            _Handler(there, None, server)
        return reply.read()


def test_a_client_that_pauses_gets_the_rest_of_its_events(monkeypatch):
    def opened():
        raise Lfm2VLError("the last event")

    monkeypatch.setattr(_Handler, "timeout", 0.05)
    server = fake(loading_notes=[Note("n" * 1000)] * 2000, opened=opened)
    here, there = socket.socketpair()
    with here, here.makefile("rb") as reply:
        here.sendall(call("/v1/lfm2vl/open", json.dumps(OPEN).encode()))

        def handle():
            with there:
                _Handler(there, None, server)

        thread = threading.Thread(target=handle)
        thread.start()
        time.sleep(0.2)
        *_, last = reply
        thread.join()
    assert str(read_event(last)) == "the last event"
    assert server.ends.is_set()  # without a model it is of no use


@pytest.mark.parametrize(
    ("asked", "is_current"),
    [
        ({"wanted": asdict(Wanted("450m"))}, True),
        ({"wanted": asdict(Wanted("demo", dtype="float32"))}, True),
        ({"build": "0.0.1 elsewhere"}, True),
        ({}, False),
    ],
    ids=["model", "settings", "package", "files"],
)
def test_a_process_opens_nothing_but_what_it_holds(asked, is_current):
    body = json.dumps(OPEN | asked).encode()
    reply = replied(fake(is_current=lambda: is_current), call("/v1/lfm2vl/open", body))
    assert reply.startswith(b"HTTP/1.0 409 ")


@pytest.mark.parametrize("length", ["", "-1", "x", 2**32 + 1])
def test_a_body_without_a_length_that_is_allowed_is_refused(length):
    reply = replied(fake(), call("/v1/lfm2vl/answer", b"{}", length))
    assert reply.startswith(b"HTTP/1.0 413 ")


def test_a_client_that_has_left_in_the_middle_of_its_question_gets_no_reply():
    assert replied(fake(), call("/v1/lfm2vl/answer", b"{}", 9)) == b""


def test_a_process_that_stops_hangs_up_without_an_error():
    """So that the client asks the next one."""
    ticket = SimpleNamespace(cancel=lambda: None)
    server = fake(prepared=lambda request, *_: request)
    server.notes = SimpleNamespace(to=nullcontext)
    server.core = SimpleNamespace(
        submit=lambda _, deliver: (deliver(Stopping("the end")), ticket)[1]
    )
    body = b"".join(write_request(Request("Hi"), ImageLimits()))
    reply = replied(server, call("/v1/lfm2vl/answer", body))
    assert reply.startswith(b"HTTP/1.0 200 ")
    assert reply.partition(b"\r\n\r\n")[2] == b""


def test_an_address_is_answered_with_the_command_that_fetches_it():
    resident = fake()
    resident.core = SimpleNamespace(model=lambda _: served_model("demo"))
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    body = {"messages": [{"role": "user", "content": [image]}]}
    head, _, reply = replied(
        resident, call("/v1/chat/completions", json.dumps(body).encode())
    ).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400 ")
    message = json.loads(reply)["error"]["message"]
    assert "generate --resident --allow-url --image ADDRESS" in message
    assert "start the server" not in message


@pytest.mark.parametrize("error", [CheckpointError("a/b is gone"), TypeError("a fault")])
def test_what_is_wrong_in_the_process_is_answered_and_raised_for_its_log(error):
    def submit(_request, _deliver):
        raise error

    resident = fake()
    resident.core = SimpleNamespace(model=lambda _: served_model("demo"), submit=submit)
    asked = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    reply = replied(resident, call("/v1/chat/completions", asked), fails=type(error))
    assert reply.startswith(b"HTTP/1.0 500 ")
    assert b"its own output says why" in reply


def test_the_log_says_where_an_error_was_but_not_what_a_request_held(monkeypatch):
    told, question = list[str](), "What is this?"
    monkeypatch.setattr(server, "log", told.append)
    for error in (ValueError(question), CheckpointError("a/b is gone")):
        try:
            raise error
        except Exception:  # noqa: BLE001  as `socketserver` does
            ResidentServer.handle_error(fake(), None, None)
    assert [text.splitlines()[-1] for text in told] == ["ValueError", "a/b is gone"]
    assert __file__ in told[0]
    assert question not in told[0]


def test_only_its_own_user_is_served(monkeypatch):
    resident: Any = ResidentServer.__new__(ResidentServer)
    for peer, is_served in ((os.getuid(), True), (os.getuid() + 1, False)):
        monkeypatch.setattr(server, "peer_of", lambda _, uid=peer: Peer(1, uid))
        assert resident.verify_request(None, None) is is_served
    with socket.socket(socket.AF_UNIX) as closed:
        monkeypatch.undo()
    assert resident.verify_request(closed, None) is False


def test_a_process_is_idle_since_its_last_call(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now[0]))
    resident: Any = ResidentServer.__new__(ResidentServer)
    resident._lock, resident._calls, resident._idle_since = threading.Lock(), 0, 0.0
    with resident.busy():
        now[0] = 7.0
        assert resident.idle_seconds == 0
    now[0] = 9.0
    assert resident.idle_seconds == 2


class Life:
    """A server for `process.serve`, whose first wait for the end does something."""

    keep_alive, idle_seconds = None, 1.0

    def __init__(self, path, wait=lambda: True) -> None:
        self.server_address, self._waits = str(path), wait
        self.ends, self.core = self, SimpleNamespace(stop=lambda _: None)
        self.closed = 0

    def wait(self, _seconds):
        return self._waits()

    def serve_forever(self, _poll):
        pass

    shutdown = staticmethod(lambda: None)

    def server_close(self):
        self.closed += 1


def test_a_process_removes_its_own_socket_and_no_other(tmp_path):
    path = tmp_path / "socket"

    def replace() -> bool:
        (tmp_path / "other").touch()
        (tmp_path / "other").replace(path)
        return True

    for wait, stays in ((lambda: True, False), (replace, True)):
        path.touch()
        process.serve(life := Life(path, wait))
        assert (path.exists(), life.closed) == (stays, 1)


def test_a_process_that_is_kept_for_no_time_ends_when_it_is_idle(tmp_path):
    (tmp_path / "socket").touch()
    life = Life(tmp_path / "socket", iter([False, True]).__next__)
    life.keep_alive = 0.0
    process.serve(life)
    assert life._waits() is True  # it has looked once
