"""Bodies of requests: bounds on size and time."""

import asyncio
import json
from itertools import count
from types import SimpleNamespace

from asgi_client import Client, ask
from scripted_core import ScriptedCore, make_app, pieces

from mlx_lfm2vl.serving.http import bodies
from mlx_lfm2vl.serving.http.bodies import BodyLimits

HELLO = {"prompt": "Hello"}
HEADERS = {"host": "127.0.0.1:8080", "content-type": "application/json"}


def begun(core: ScriptedCore, body: bytes, limits: BodyLimits) -> Client:
    """A request whose body has only begun."""
    client = Client(make_app(core, bodies=limits), "POST", "/v1/echo", HEADERS, None)
    client.send_body(body, more=True)
    return client


def test_a_body_comes_in_pieces():
    async def run() -> None:
        client = begun(ScriptedCore(pieces("Hi")), b'{"prompt": ', BodyLimits())
        client.send_body(b'"Hello"}')
        assert (await client.finished()).json == {"texts": ["Hi"]}

    asyncio.run(run())


def test_a_body_above_the_limit_is_refused_by_its_length_and_by_what_comes():
    limits = BodyLimits(one=30)

    async def run() -> None:
        app = make_app(ScriptedCore(pieces("Hi")), bodies=limits)
        announced = await ask(app, "/v1/echo", HELLO, content_length="31")
        assert (announced.status, announced.json["error"]["code"]) == (413, "body_too_large")
        fits = json.dumps(HELLO).encode().ljust(30)
        assert (await ask(app, "/v1/echo", body=fits)).status == 200
        assert (await ask(app, "/v1/echo", body=fits, content_length="30")).status == 200
        assert (await ask(app, "/v1/echo", body=fits + b" ")).status == 413

    asyncio.run(run())


def test_a_body_that_comes_too_slowly_is_cut_off():
    async def run() -> None:
        client = begun(ScriptedCore(), b"{", BodyLimits(patience=0.01))
        reply = await client.finished()
        assert (reply.status, reply.json["error"]["code"]) == (408, "slow_body")

    asyncio.run(run())


def test_a_body_that_trickles_in_has_no_longer_time(monkeypatch):
    ticks = count(0, 10)  # a clock that goes on by ten seconds whenever it is read
    monkeypatch.setattr(bodies, "time", SimpleNamespace(monotonic=lambda: next(ticks)))

    async def run() -> None:
        client = begun(ScriptedCore(), b"{", BodyLimits(patience=20))
        async with asyncio.timeout(5):
            assert (await client.finished()).status == 408

    asyncio.run(run())


def test_a_long_body_has_more_time():
    async def run() -> None:
        client = begun(ScriptedCore(pieces("Hi")), b" " * 100, BodyLimits(patience=0, slowest=100))
        await asyncio.sleep(0.05)
        client.send_body(json.dumps(HELLO).encode())
        assert (await client.finished()).status == 200

    asyncio.run(run())


def test_a_client_that_goes_away_while_it_sends_asks_nothing():
    async def run() -> None:
        core = ScriptedCore()
        client = begun(core, b'{"prompt"', BodyLimits())
        client.leave()
        assert (await client.finished()).status == 0
        assert not core.asked

    asyncio.run(run())


def test_bodies_share_a_limit_which_those_that_are_answered_give_back():
    async def run() -> None:
        core = ScriptedCore()
        app = make_app(core, bodies=BodyLimits(together=100))
        large = json.dumps(HELLO).encode().ljust(60)
        held = Client(app, "POST", "/v1/echo", HEADERS, large)
        while not core.asked:
            await asyncio.sleep(0.001)
        refused = await ask(app, "/v1/echo", body=large)
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        held.leave()
        await held.task
        core.events = pieces("Hi")
        assert (await ask(app, "/v1/echo", body=large.ljust(100))).status == 200

    asyncio.run(run())


def test_a_compressed_body_is_refused():
    async def run() -> None:
        app = make_app(ScriptedCore())
        assert (await ask(app, "/v1/echo", HELLO, content_encoding="gzip")).status == 415
        app = make_app(ScriptedCore(pieces("Hi")))
        assert (await ask(app, "/v1/echo", HELLO, content_encoding="Identity")).status == 200

    asyncio.run(run())
