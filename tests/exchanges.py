"""Runs exchanges for the demo model, and stands for a server to clients that speak HTTP."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from mlx_lfm2vl.errors import Lfm2VLError
from mlx_lfm2vl.serving.core import Core
from mlx_lfm2vl.serving.exchange import Exchange, Frame, Read, Terms
from mlx_lfm2vl.serving.http.errors import error_reply
from mlx_lfm2vl.serving.served import served_model

MODEL = served_model("demo", dtype="float32")
TERMS = Terms(lambda _: MODEL)


def events(exchange: Exchange, core: Core) -> Iterator[tuple[int, Any]]:
    """The events of all requests of an exchange, one request after the other."""
    for index, request in enumerate(exchange.requests):
        for event in core.stream(request):
            if isinstance(event, Lfm2VLError):
                raise event
            yield index, event


def body_of(exchange: Exchange, core: Core) -> dict[str, Any]:
    """The whole answer as one object."""
    for index, event in events(exchange, core):
        exchange.add(index, event)
    return exchange.body()


def frames_of(exchange: Exchange, core: Core) -> list[Frame]:
    """The answer as a stream."""
    frames = exchange.begin()
    for index, event in events(exchange, core):
        frames += exchange.add(index, event)
    return frames + exchange.end()


def as_sse(frames: list[Frame]) -> bytes:
    """Frames as a server sends them."""
    lines = []
    for frame in frames:
        data = frame.data if isinstance(frame.data, str) else json.dumps(frame.data)
        lines.append((f"event: {frame.event}\n" if frame.event else "") + f"data: {data}\n\n")
    return "".join(lines).encode()


class InProcess(httpx.BaseTransport):
    """A server without sockets, for clients that take a transport."""

    def __init__(self, core: Core, terms: Terms, routes: Mapping[str, Read]) -> None:
        self.core, self.terms, self.routes = core, terms, routes
        self.bodies: list[dict[str, Any]] = []  # of the requests, in their order

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.read())
        self.bodies.append(body)
        try:
            exchange = self.routes[request.url.path](body, self.terms)
            if not exchange.streams:
                return httpx.Response(200, json=body_of(exchange, self.core))
            stream = {"content-type": "text/event-stream"}
            content = as_sse(frames_of(exchange, self.core))
            return httpx.Response(200, headers=stream, content=content)
        except Lfm2VLError as error:
            status, headers, described = error_reply(error)
            return httpx.Response(status, headers=headers, json=described)
