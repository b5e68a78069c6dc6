"""Images by address: fetched in threads of their own, shared out among requests and clients."""

import asyncio
import base64
import gc
import json
import threading
import time
from typing import Any

import pytest
from asgi_client import ask, request
from client_shapes import DOT
from scripted_core import ScriptedCore, pieces

from mlx_lfm2vl.errors import NetworkError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.http import fetching
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import READERS, App, Call, Settings
from mlx_lfm2vl.serving.http.bodies import BodyLimits
from mlx_lfm2vl.serving.http.fetching import MAX_OF_CLIENT, OF_CLIENT, OF_REQUEST, Fetcher
from mlx_lfm2vl.serving.http.fronts import all_fronts
from mlx_lfm2vl.serving.protocol.fields import BadField
from mlx_lfm2vl.serving.request import Busy
from mlx_lfm2vl.serving.served import served_model

CHAT = "/v1/chat/completions"
PNG = base64.b64decode(DOT.partition(",")[2])
DEMO = served_model("demo")


class Hosts:
    """Hosts that answer when a test lets them."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []
        self.active = self.most = 0
        self._lock = threading.Lock()

    def fetch(self, url: str, max_bytes: int) -> bytes:
        with self._lock:
            self.asked.append(url)
            self.active += 1
            self.most = max(self.most, self.active)
        assert "fast" in url or self.answer.wait(20)
        with self._lock:
            self.active -= 1
        if "lost" in url:
            raise NetworkError(f"{url} answered 404 Not Found")
        return PNG[:max_bytes]


@pytest.fixture
def hosts(monkeypatch):
    hosts = Hosts()
    monkeypatch.setattr("mlx_lfm2vl.images.fetch.fetch", hosts.fetch)
    yield hosts
    hosts.answer.set()


def make_app(core: Any, **limits: int) -> App:
    terms = Terms(lambda _: DEMO, ImageLimits(allow_url=True))
    return App(core, terms, Access(), all_fronts(), Settings(bodies=BodyLimits(**limits)))


def question(*urls: str) -> dict:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, *images]}]}


def address(number: int) -> str:
    return f"https://slow.example/{number}.png"


def uncounted(_size: int) -> None:
    """Count nothing."""


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_hosts_that_are_slow_hold_up_no_request_without_addresses(hosts):
    async def run() -> None:
        app = make_app(ScriptedCore(pieces("Hi")))
        slow = [request(app, CHAT, question(address(number))) for number in range(2 * READERS)]
        await until(lambda: hosts.active == OF_CLIENT)
        async with asyncio.timeout(20):
            assert (await ask(app, CHAT, question(DOT))).status == 200
        hosts.answer.set()
        assert {(await each.finished()).status for each in slow} == {200}

    asyncio.run(run())


def test_an_image_is_fetched_once_and_asked_about(hosts):
    hosts.answer.set()
    core = ScriptedCore(pieces("Hi"))
    app = make_app(core)
    body = question(address(1), DOT, address(1), "HTTPS://fast.example/a.png")
    assert asyncio.run(ask(app, CHAT, body)).status == 200
    assert sorted(hosts.asked) == ["HTTPS://fast.example/a.png", address(1)]
    parts = core.asked[0].request.messages[0]["content"]
    assert [part["image"] for part in parts if part["type"] == "image"] == [PNG] * 4
    core.refusal = Busy("the queue is full", 7)
    assert asyncio.run(ask(app, "/v1/skills/caption", {"image": address(2)})).status == 503
    assert hosts.asked[-1] == address(2)


def test_a_request_is_checked_before_anything_is_fetched(hosts):
    reply = asyncio.run(ask(make_app(ScriptedCore()), CHAT, question(address(1)) | {"n": 99}))
    assert (reply.status, reply.json["error"]["param"], hosts.asked) == (400, "n", [])


def test_an_address_that_fails_is_named_with_its_field(hosts):
    hosts.answer.set()
    body = question(address(1), "https://lost.example/a.png")
    reply = asyncio.run(ask(make_app(ScriptedCore()), CHAT, body))
    assert (reply.status, reply.json["error"]["param"]) == (
        400,
        "messages[0].content[2].image_url.url",
    )
    assert reply.json["error"]["message"] == "https://lost.example/a.png answered 404 Not Found"


def test_what_was_fetched_counts_as_memory_of_requests(hosts):
    hosts.answer.set()
    app = make_app(ScriptedCore(pieces("Hi")), one=400, together=400)
    assert asyncio.run(ask(app, CHAT, question(address(1)))).status == 200
    reply = asyncio.run(ask(app, CHAT, question(*map(address, range(3)))))
    assert (reply.status, reply.json["error"]["code"]) == (503, "busy")
    assert app._bodies._held == 0


@pytest.mark.usefixtures("hosts")
def test_what_was_fetched_counts_while_the_rest_is_fetched():
    async def run() -> None:
        app = make_app(ScriptedCore())
        body = question("https://fast.example/1", "https://fast.example/2", address(1))
        client = request(app, CHAT, body)
        await until(lambda: app._bodies._held == len(json.dumps(body)) + 2 * len(PNG))
        client.leave()
        await client.task
        assert app._bodies._held == 0
        app = make_app(ScriptedCore(), together=len(json.dumps(body)) + len(PNG))
        refused = await ask(app, CHAT, body)
        assert (refused.status, refused.json["error"]["code"]) == (503, "busy")

    asyncio.run(run())


def test_files_of_a_request_that_fails_are_freed_at_once(monkeypatch):
    class File(bytes):
        pass

    came = threading.Event()

    def fetch(url: str, _: int) -> bytes:
        if "lost" not in url:
            threading.Timer(0.01, came.set).start()
            return File(PNG)
        assert came.wait(20)
        raise NetworkError("lost")

    monkeypatch.setattr("mlx_lfm2vl.images.fetch.fetch", fetch)
    gc.collect()
    gc.disable()
    try:
        body = question(address(1), "https://lost.example/a.png")
        assert asyncio.run(ask(make_app(ScriptedCore()), CHAT, body)).status == 400
        end = time.monotonic() + 20  # the thread of the download ends a moment later
        while any(type(each) in (File, Call) for each in gc.get_objects()):
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        gc.enable()


def test_a_request_and_a_client_have_shares_of_the_downloads(hosts):
    async def run() -> None:
        fetcher = Fetcher(100)

        def fetch(client: str, first: int):
            fields = {address(n): f"images[{n}]" for n in range(first, first + 6)}
            return asyncio.create_task(fetcher.fetch(fields, client, uncounted))

        tasks = [fetch("a", 0)]
        await until(lambda: hosts.active == OF_REQUEST)
        tasks += [fetch("a", 10), fetch("a", 20)]
        await until(lambda: hosts.active == OF_CLIENT)
        tasks.append(fetch("b", 30))
        await until(lambda: hosts.active == OF_CLIENT + OF_REQUEST)
        assert address(30) in hosts.asked
        hosts.answer.set()
        for files in await asyncio.gather(*tasks):
            assert list(files.values()) == [PNG] * 6
        assert hosts.most == OF_CLIENT + OF_REQUEST
        assert not fetcher._requests

    asyncio.run(run())


def test_a_client_with_too_many_requests_is_told_to_wait(hosts):
    async def run() -> None:
        fetcher = Fetcher(100)
        tasks = [
            asyncio.create_task(fetcher.fetch({address(n): "image"}, "a", uncounted))
            for n in range(MAX_OF_CLIENT)
        ]
        await until(lambda: hosts.active == OF_CLIENT)
        with pytest.raises(Busy, match="there is no room for more") as caught:
            await fetcher.fetch({address(99): "image"}, "a", uncounted)
        assert caught.value.retry_after > 0
        other = asyncio.create_task(fetcher.fetch({address(100): "image"}, "b", uncounted))
        await until(lambda: address(100) in hosts.asked)
        hosts.answer.set()
        await asyncio.gather(*tasks, other)

    asyncio.run(run())


def test_a_download_whose_thread_cannot_begin_gives_its_places_back(hosts, monkeypatch):
    def fails(_thread):
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        fetcher = Fetcher(100)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", fails)
            for _ in range(OF_CLIENT + 1):
                with pytest.raises(Busy, match="there is no room for more"):
                    await fetcher.fetch({address(1): "image"}, "a", uncounted)
        hosts.answer.set()
        assert await fetcher.fetch({address(1): "image"}, "a", uncounted) == {address(1): PNG}

    asyncio.run(run())


def test_the_images_of_a_request_have_one_time_limit(hosts, monkeypatch):
    monkeypatch.setattr(fetching, "SECONDS", 0.05)

    async def run() -> None:
        fetcher = Fetcher(100)
        fields = {address(n): f"images[{n}]" for n in range(OF_REQUEST)}
        tasks = [asyncio.create_task(fetcher.fetch(fields, "a", uncounted)) for _ in range(3)]
        first, second, late = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, BadField)
        assert first.param == "images[0]"
        assert "were not fetched within 0.05 seconds" in str(first)
        assert isinstance(second, BadField)
        assert isinstance(late, Busy)  # its turn has not come
        hosts.answer.set()
        await until(lambda: not hosts.active)
        assert await fetcher.fetch(fields, "a", uncounted) == dict.fromkeys(fields, PNG)

    asyncio.run(run())


@pytest.mark.usefixtures("hosts")
def test_a_client_that_goes_away_is_waited_for_no_longer():
    async def run() -> None:
        app = make_app(ScriptedCore())
        client = request(app, CHAT, question(address(1)))
        await until(lambda: app._fetcher._requests)
        client.leave()
        async with asyncio.timeout(20):
            await client.task
        assert not app._fetcher._requests

    asyncio.run(run())
