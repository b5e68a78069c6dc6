"""The public protocols over the socket."""

import weakref
from types import SimpleNamespace
from typing import cast

import pytest
from scripted_core import pieces

from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.http.sse import PING
from mlx_lfm2vl.serving.protocol.chat import read_chat
from mlx_lfm2vl.serving.request import Busy
from mlx_lfm2vl.serving.resident import protocol as resident_protocol
from mlx_lfm2vl.serving.resident.protocol import stream, whole
from mlx_lfm2vl.serving.served import served_model


def test_an_error_before_the_first_event_of_a_stream_keeps_its_own_status():
    def submit(_request, _deliver):
        raise Busy("64 requests are waiting, the limit", 5)

    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    exchange = read_chat(body, Terms(lambda _name: served_model("demo")))
    with pytest.raises(Busy, match="64 requests are waiting"):
        next(stream(exchange, SimpleNamespace(submit=submit), lambda: False))


def test_a_request_is_freed_when_the_core_frees_it():
    asked = []

    def submit(request, deliver):
        asked.append(weakref.ref(request))
        deliver(Piece("a", [1]))
        return SimpleNamespace(cancel=lambda: None)

    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "n": 2}
    exchange = read_chat(body, Terms(lambda _name: served_model("demo")))
    next(stream(exchange, SimpleNamespace(submit=submit), lambda: False))
    assert [request() for request in asked] == [None, None]


def test_a_client_that_has_gone_is_noticed_while_its_answer_is_written():
    cancelled = []

    def submit(_request, deliver):
        for piece in pieces("a", "b", "c"):
            deliver(piece)
        return SimpleNamespace(cancel=lambda: cancelled.append(1))

    body = {"messages": [{"role": "user", "content": "Hi"}]}
    exchange = read_chat(body, Terms(lambda _name: served_model("demo")))
    left = iter([False, False, True])
    with pytest.raises(ConnectionResetError):
        whole(exchange, SimpleNamespace(submit=submit), left.__next__)
    assert cancelled == [1]


def test_a_fault_of_our_own_in_the_middle_is_told_and_raised():
    def submit(_request, deliver):
        deliver(Piece("a", [1]))
        deliver(Piece(cast(str, b"no text"), [2]))
        return SimpleNamespace(cancel=lambda: None)

    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    exchange = read_chat(body, Terms(lambda _name: served_model("demo")))
    events = stream(exchange, SimpleNamespace(submit=submit), lambda: False)
    next(events)
    assert b'"message":"the server could not answer' in next(events)
    with pytest.raises(TypeError):
        next(events)


def test_a_silence_is_filled_and_a_client_that_has_gone_is_noticed(monkeypatch):
    monkeypatch.setattr(resident_protocol, "PING_SECONDS", 0.01)
    cancelled = []
    ticket = SimpleNamespace(cancel=lambda: cancelled.append(1))
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    exchange = read_chat(body, Terms(lambda _name: served_model("demo")))
    left = iter([False, True])
    events = stream(exchange, SimpleNamespace(submit=lambda *_: ticket), left.__next__)
    first = next(events)
    assert first.startswith(b"data: {")
    assert first.endswith(PING)
    with pytest.raises(ConnectionResetError):
        next(events)
    assert cancelled == [1]
