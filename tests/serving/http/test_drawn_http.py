"""Drawn requests over HTTP, damaged everywhere: each is answered, and none with a status of 500."""

import asyncio
import copy
import json
import random
import re

from asgi_client import HOST, Client
from client_shapes import DOT, SHAPES
from mutations import damage_bytes, damage_json, seeds
from scripted_core import ScriptedCore, pieces

from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.http.access import Access
from mlx_lfm2vl.serving.http.app import App
from mlx_lfm2vl.serving.http.fronts import all_fronts
from mlx_lfm2vl.serving.served import served_model

DEMO = served_model("demo")
TOKEN = "0123456789abcdef"
POSTED = [
    *(("/v1/chat/completions", body) for body in SHAPES.values()),
    ("/v1/responses", {"input": "Hi", "stream": True}),
    ("/v1/plan", {"images": [DOT, {"width": 900, "height": 700}]}),
    ("/v1/preview", {"image": DOT}),
    ("/v1/skills/caption", {"length": "short"}),
]
PATHS = ["/", "/health", "/metrics", "/v1/models", "/v1/models/demo", "/openapi.json", "/v1/%00"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X"]
HEADERS = {
    "host": ["", "evil.example", "localhost", "[::1", "\xff", "127.0.0.1:99999", HOST],
    "origin": ["null", "https://evil.example", f"http://{HOST}", ""],
    "authorization": ["", "Bearer", "Basic x", f"bearer {TOKEN}", "Bearer \xff"],
    "content-type": ["", "text/plain", "application/json;charset=utf-16", "APPLICATION/JSON"],
    "content-length": ["-1", "9" * 30, "x", "0"],
    "content-encoding": ["gzip", "identity"],
    "access-control-request-method": ["POST"],
}
STATUSES = {200, 204, 304, 400, 401, 403, 404, 405, 408, 413, 415}


def drawn(draw: random.Random) -> tuple[str, str, dict[str, str], bytes]:
    """A method, a path, headers and a body, most of them as they should be."""
    path, value = copy.deepcopy(draw.choice(POSTED))
    method = "POST"
    if draw.random() < 0.2:
        path, method = draw.choice(PATHS), draw.choice(METHODS)
    if draw.random() < 0.7:
        damage_json(value, draw)
    body = json.dumps(value).encode()
    if draw.random() < 0.2:
        body = damage_bytes(body, draw)
    headers = {"host": HOST, "content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    for _ in range(draw.choice((0, 0, 1, 2))):
        name = draw.choice(list(HEADERS))
        headers[name] = draw.choice(HEADERS[name])
    return method, path, headers, body


@seeds(300, 10_000)
def test_every_drawn_request_is_answered_as_it_should_be(bounds, cases):
    async def run() -> None:
        core = ScriptedCore(pieces("Hi", "!"))
        app = App(core, Terms(lambda _: DEMO), Access(token=TOKEN), all_fronts())
        seen = set()
        for seed in range(cases):
            method, path, headers, body = drawn(random.Random(seed))
            with bounds.case(seed):
                async with asyncio.timeout(30):
                    reply = await Client(app, method, path, headers, body).finished()
                seen.add(reply.status)
                assert reply.is_complete
                assert reply.status in STATUSES
                if reply.status >= 400:
                    error = reply.json["error"]
                    assert set(error) == {"message", "type", "param", "code"}
                    assert "\n" not in error["message"]
                    assert not re.search(r"mlx_lfm2vl/|site-packages|/home|/root", str(error))
        assert seen >= {200, 400, 401, 403, 404, 405, 415}

    asyncio.run(run())
