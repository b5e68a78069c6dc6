"""A server for tests of the page: the real page, plans and previews, and answers by a script."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlx_lfm2vl.errors import Lfm2VLError
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.serving.exchange import Terms
from mlx_lfm2vl.serving.page.plan import plan, preview
from mlx_lfm2vl.serving.page.routes import page_routes
from mlx_lfm2vl.serving.served import Served, served_model

USAGE = {
    "prompt_tokens": 300,
    "completion_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 256},
}


@dataclass
class PageServer:
    """What the server answers, and what it was asked.

    Attributes:
        pieces: of the next answers; a float waits for so many seconds, an `Event` until it is set,
            an exception breaks the stream off with an error object, None closes it without an end,
            and a mapping is sent as it is.
        skills: the typed answers by the name of the skill.
        token: that a request must have; empty for none.
        limits: on images.
        asked: bodies of the questions, in order.
        left: set when a client goes away in the middle of an answer.
    """

    pieces: list[Any] = field(default_factory=lambda: ["Hello."])
    skills: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    token: str = ""
    limits: ImageLimits = field(default_factory=ImageLimits)
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def app(self) -> Starlette:
        posts = {
            "/v1/chat/completions": self._chat,
            "/v1/skills/{name}": self._skill,
            "/v1/plan": lambda request: self._computed(plan, request),
            "/v1/preview": lambda request: self._computed(preview, request),
        }
        return Starlette(
            routes=[
                *page_routes(),
                Route("/v1/models", self._checked(self._models)),
                *(Route(path, self._checked(do), methods=["POST"]) for path, do in posts.items()),
            ]
        )

    def _checked(self, handle):
        async def checked(request: Request) -> Response:
            if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                return _error(401, "this server wants a bearer token")
            return await handle(request)

        return checked

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in MODELS]})

    async def _computed(self, compute, request: Request) -> Response:
        try:
            return JSONResponse(compute(await request.json(), Terms(_find, self.limits)))
        except Lfm2VLError as error:
            return _error(400, str(error))

    async def _skill(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.asked.append({"skill": name, **await request.json()})
        return JSONResponse({"skill": name, "answers": self.skills[name], "usage": USAGE})

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self):
        is_whole = False
        try:
            yield ": ping\n\n"
            for piece in self.pieces:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                elif isinstance(piece, threading.Event):
                    await asyncio.to_thread(piece.wait, 30)
                elif piece is None or isinstance(piece, Exception):
                    is_whole = True
                    if piece:
                        yield _frame({"error": {"message": str(piece), "type": "server_error"}})
                    return
                else:
                    yield _frame(piece if isinstance(piece, Mapping) else _chunk(content=piece))
            is_whole = True
            yield _frame(_chunk(finish_reason="stop"))
            yield _frame({"choices": [], "usage": USAGE})
            yield "data: [DONE]\n\n"
        finally:
            if not is_whole:
                self.left.set()


def progress(stage: str, done: int, total: int) -> dict[str, Any]:
    """A chunk that says how far the prompt is read."""
    told = {"stage": stage, "done": done, "total": total}
    return {"choices": [], "lfm2vl": {"progress": told}}


@contextmanager
def running(server: PageServer) -> Iterator[PageServer]:
    """Run the server on a free port of this machine."""
    with served(lambda _: server.app()) as server.url:
        yield server


@contextmanager
def served(make_app: Callable[[int], Any]) -> Iterator[str]:
    """Serve an ASGI application, which is made for its port, in a thread; yield its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(make_app(port), log_level="critical", lifespan="off", ws="none")
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        runner.should_exit = runner.force_exit = True
        thread.join()
        listener.close()


MODELS = {name: served_model("demo", name=name) for name in ("demo", "other")}


def _find(name: str) -> Served:
    return MODELS[name or "demo"]


def _chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _frame(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _error(status: int, text: str) -> Response:
    return JSONResponse({"error": {"message": text, "type": "invalid_request_error"}}, status)
