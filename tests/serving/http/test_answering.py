"""Answers: streams, pings, clients that go away, slow readers, errors on the way."""

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from asgi_client import Client, ask, request
from scripted_core import Asked, ScriptedCore, make_app, pieces

from mlx_lfm2vl.errors import CheckpointError, InputError
from mlx_lfm2vl.generation.result import Piece
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.http import app as http_app
from mlx_lfm2vl.serving.http.answering import Running
from mlx_lfm2vl.serving.http.guard import CLIENT_GONE, Seen
from mlx_lfm2vl.serving.http.sse import to_json
from mlx_lfm2vl.serving.request import Busy, Progress, Request

STREAM = {"prompt": "Hello", "stream": True}


def stream(core: Any, **settings: Any) -> Any:
    return asyncio.run(ask(make_app(core, **settings), "/v1/echo", STREAM))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def visit(
    body: Callable[[ScriptedCore, Client], Awaitable[None]],
    value: Any = STREAM,
    **settings: Any,
) -> None:
    """Run a test in the event loop with a question under way, of which nothing is answered yet."""

    async def run() -> None:
        core = ScriptedCore()
        client = request(make_app(core, **settings), "/v1/echo", value)
        await until(lambda: core.asked)
        await body(core, client)
        async with asyncio.timeout(20):
            await client.task

    asyncio.run(run())


def test_a_stream_begins_goes_on_and_ends_as_its_protocol_says():
    assert stream(ScriptedCore(pieces("a", "\n", "é"))).events == [
        "data: begin",
        'data: {"text":"a"}',
        'data: {"text":"\\n"}',
        'data: {"text":"é"}',
        "event: end\ndata: [DONE]",
    ]


def test_what_json_and_utf_8_cannot_say_is_never_sent():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"logprob": float("-inf")})
    assert to_json("é\ud800") == '"é?"'.encode()


def test_several_answers_come_in_one_stream():
    value = STREAM | {"n": 3}
    reply = asyncio.run(ask(make_app(ScriptedCore(pieces("a", "b"))), "/v1/echo", value))
    assert reply.events.count('data: {"text":"b"}') == 3
    assert reply.events[-1] == "event: end\ndata: [DONE]"


def test_an_error_before_the_first_token_has_a_status():
    early = ScriptedCore([Progress("queue", 0, 1), InputError("the image is damaged")])
    reply = stream(early)
    assert (reply.status, reply.json["error"]["message"]) == (400, "the image is damaged")


def test_an_error_in_the_middle_is_the_last_frame_and_all_before_it_is_sent(caplog):
    late = ScriptedCore([Piece("a", [1]), CheckpointError("/a/b is gone")])
    reply = stream(late)
    assert reply.status == 200
    assert reply.is_complete
    assert reply.events[1] == 'data: {"text":"a"}'
    assert '"message":"the server could not answer' in reply.events[2]
    assert len(reply.events) == 3
    assert "/a/b is gone" in caplog.text


def test_a_fault_of_our_own_in_the_middle_is_told_like_an_error(caplog):
    async def fail(core: ScriptedCore, client: Client) -> None:
        core.asked[0].deliver(Piece("a", [1]))
        await until(lambda: client.reply.body)
        core.asked[0].deliver(Piece(cast(str, 7), [2]))
        await client.task
        assert client.reply.is_complete
        assert '"message":"the server could not answer' in client.reply.events[2]
        assert core.asked[0].is_cancelled

    visit(fail)
    assert "TypeError in " in caplog.text


def test_one_failed_answer_ends_the_others():
    async def fail(core: ScriptedCore, _: Client) -> None:
        core.asked[1].deliver(InputError("no"))
        await until(lambda: all(asked.is_cancelled for asked in core.asked))

    visit(fail, STREAM | {"n": 2})


def test_a_question_that_is_refused_in_part_is_given_up_as_a_whole():
    class Full(ScriptedCore):
        def submit(self, request: Request, deliver: Any) -> Any:
            if self.asked:
                raise Busy("the queue is full", 5)
            return super().submit(request, deliver)

    core = Full()
    assert asyncio.run(ask(make_app(core), "/v1/echo", STREAM | {"n": 2})).status == 503
    assert core.asked[0].is_cancelled


def test_pings_fill_the_silence_and_a_slow_beginning_too():
    begun = time.monotonic()

    async def wait(core: ScriptedCore, client: Client) -> None:
        core.asked[0].deliver(Progress("prefill", 1, 10))
        await until(lambda: client.reply.body.count(b": ping\n\n") >= 3)
        await asyncio.sleep(0.01)
        count = client.reply.body.count(b": ping\n\n")
        assert count <= 1 + (time.monotonic() - begun) / 0.01
        for piece in pieces("a", "b"):
            core.asked[0].deliver(piece)
        await client.task
        assert client.reply.events[0] == "data: begin"
        assert client.reply.events[-1] == "event: end\ndata: [DONE]"

    visit(wait, ping_seconds=0.01)


@pytest.mark.parametrize("value", [STREAM, {"prompt": "Hello"}], ids=["stream", "whole"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_away_cancels_its_question_at_once(value, begun):
    async def leave(core: ScriptedCore, client: Client) -> None:
        if begun:
            core.asked[0].deliver(Piece("a", [1]))
            await asyncio.sleep(0.01)
        assert not core.asked[0].is_cancelled
        client.leave()
        await until(lambda: core.asked[0].is_cancelled)

    seen: list[Seen] = []
    visit(leave, value, log=seen.append)
    assert [each.status for each in seen] == [200 if begun and value == STREAM else CLIENT_GONE]


def test_a_slow_reader_holds_up_nobody():
    async def run() -> None:
        core = ScriptedCore(pieces("a", "b"))
        app = make_app(core)
        slow = request(app, "/v1/echo", STREAM)
        slow.reads.clear()
        for _ in range(3):
            assert (await ask(app, "/v1/echo", STREAM)).is_complete
        assert slow.reply.status == 0
        slow.reads.set()
        assert (await slow.finished()).events[-1] == "event: end\ndata: [DONE]"

    asyncio.run(run())


def test_a_slow_reader_who_goes_away_cancels_his_question():
    async def leave(core: ScriptedCore, client: Client) -> None:
        client.reads.clear()
        core.asked[0].deliver(Piece("a", [1]))
        await asyncio.sleep(0.01)
        client.leave()
        await until(lambda: core.asked[0].is_cancelled)

    visit(leave)


def test_an_answer_leaves_no_cycle_that_holds_its_images():
    async def run() -> weakref.ref[Any]:
        core = ScriptedCore(pieces("a"))
        requests = [Request([{"role": "user", "content": "a"}])]
        with Running(cast(Core, core), requests) as running:
            await running.next()
        return weakref.ref(running)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(run())() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("value", [STREAM, {"prompt": "Hello"}], ids=["stream", "whole"])
@pytest.mark.parametrize("begun", [[], [Piece("a", [1])]], ids=["early", "late"])
def test_an_error_leaves_no_cycle_that_holds_the_images_of_its_question(value, begun):
    asked: list[weakref.ref[Request]] = []

    class Failing(ScriptedCore):
        def submit(self, request: Request, deliver: Any) -> Asked:
            asked.append(weakref.ref(request))
            for event in (*begun, InputError("the image is damaged")):
                deliver(event)
            return Asked(Request(""), deliver)

    gc.collect()
    gc.disable()
    try:
        assert (
            b"the image is damaged" in asyncio.run(ask(make_app(Failing()), "/v1/echo", value)).body
        )
        assert [each() for each in asked] == [None]
    finally:
        gc.enable()


def test_an_application_knows_how_long_nobody_has_asked(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(time=lambda: 0, monotonic=lambda: now[0])
    monkeypatch.setattr(http_app, "time", clock)

    async def run() -> None:
        core = ScriptedCore()
        app = make_app(core)
        now[0] = 40.0
        assert app.idle_seconds() == 40
        client = request(app, "/v1/echo", STREAM)
        await until(lambda: core.asked)
        assert app.idle_seconds() == 0
        client.leave()
        await client.task
        now[0] = 43.0
        assert app.idle_seconds() == 3

    asyncio.run(run())
