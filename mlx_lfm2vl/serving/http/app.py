"""The HTTP server as an ASGI application: its routes over a core."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...errors import Lfm2VLError
from ..core import Core
from ..exchange import Exchange, Read, Terms, Unfetched
from ..protocol.json_body import parse_object
from ..request import UnknownModel
from .access import Access
from .answering import answer, send_object, while_there
from .bodies import Bodies, BodyLimits, ClientGone, Count
from .errors import HttpError, error_reply, is_internal, report
from .fetching import Fetcher
from .guard import Guard, Seen
from .metrics import CONTENT_TYPE, metrics_text
from .paths import meant

Compute = Callable[[Mapping[str, Any], Terms], dict[str, Any]]
Describe = Callable[[Terms, Sequence[str], bool], dict[str, Any]]
READERS = 16  # bodies that are read at the same time
DRAWERS = 2  # previews at the same time, each of an image of up to 1.6 GB

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A request whose body has come.

    Attributes:
        body: of the request, to be cleared when it is read.
        client: network address of the one who asks; empty if it is unknown.
        receive: the rest of what the client sends.
        send: the answer to the client.
    """

    body: bytearray
    client: str
    receive: Receive
    send: Send


Handle = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True)
class Fronts:
    """What clients may post to, by path.

    Attributes:
        exchanges: questions to the core.
        computed: questions that need no model, such as how an image is cut.
        pages: routes of documents.
        describe: makes the description in OpenAPI of the terms, the names of models, and whether
            a token is needed.
    """

    exchanges: Mapping[str, Read]
    computed: Mapping[str, Compute] = field(default_factory=dict[str, Compute])
    pages: Sequence[Route] = ()
    describe: Describe = lambda _terms, _models, _needs_token: {}


@dataclass(frozen=True)
class Settings:
    """How clients are treated.

    Attributes:
        bodies: bounds of what they send.
        ping_seconds: longest silence of a stream.
        log: told every request; None tells nobody.
    """

    bodies: BodyLimits = field(default_factory=BodyLimits)
    ping_seconds: float = 5.0
    log: Callable[[Seen], object] | None = None


class App:
    """The ASGI application.

    Attributes:
        routes: that are answered.
        is_stopping: whether the process is ending; set by its server.
    """

    def __init__(
        self,
        core: Core,
        terms: Terms,
        access: Access,
        fronts: Fronts,
        settings: Settings | None = None,
    ) -> None:
        """
        Args:
            core: which answers.
            terms: what a request may ask for.
            access: who may ask.
            fronts: what may be asked.
            settings: how clients are treated; None takes the defaults.
        """
        self._core, self._terms = core, terms
        self._settings = settings or Settings()
        self._bodies = Bodies(self._settings.bodies)
        self._fetcher = Fetcher(min(terms.limits.max_bytes, self._settings.bodies.one))
        self._counts: Counter[tuple[str, int]] = Counter()
        self._readers = ThreadPoolExecutor(READERS, "mlx_lfm2vl reader")
        self._drawers = ThreadPoolExecutor(DRAWERS, "mlx_lfm2vl drawer")
        self._created = int(time.time())
        self._asked, self._asked_at = 0, time.monotonic()
        self.is_stopping = False
        routes = [
            *fronts.pages,
            Route("/health", self._health),
            Route("/metrics", self._count),
            Route("/openapi.json", self._describe),
            Route("/v1/models", self._list_models),
            Route("/v1/models/{model:path}", self._show_model),
            *(self._posted(path, self._exchange(read)) for path, read in fronts.exchanges.items()),
            *(self._posted(path, self._compute(what)) for path, what in fronts.computed.items()),
        ]
        starlette = Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: self._refused,
                Lfm2VLError: _failed,
                Exception: _failed,
            },
        )
        starlette.router.redirect_slashes = False
        self.routes = tuple(routes)
        self._paths = [route.path for route in routes]
        self._described = cache(
            partial(fronts.describe, terms, list(core.models), access.token is not None)
        )
        paths = {route.endpoint: route.path for route in routes}
        self._guard = Guard(starlette, access, self._counts, paths, self._settings.log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request over HTTP."""
        await self._guard(scope, receive, send)

    def idle_seconds(self) -> float:
        """Return for how long no question was asked or answered."""
        return 0.0 if self._asked else time.monotonic() - self._asked_at

    def _posted(self, path: str, handle: Handle) -> Route:
        return Route(path, _Posted(self._bodies, handle), methods=["POST"])

    def _exchange(self, read: Read) -> Handle:
        async def handle(call: Call) -> None:
            with self._asking(), self._bodies.counting() as count:
                exchange = await self._read_exchange(call, read, count)
                call.body.clear()  # an answer may take long
                pause = self._settings.ping_seconds
                await answer(exchange, self._core, call.receive, call.send, pause)

        return handle

    async def _read_exchange(self, call: Call, read: Read, count: Count) -> Exchange:
        """Read a body; fetch the images that it names by address, and count their bytes."""
        try:
            return await _read(self._readers, call.body, read, self._terms)
        except Unfetched as missing:
            fetching = self._fetcher.fetch(missing.fields, call.client, count)
        files = await while_there(call.receive, fetching)
        terms = replace(self._terms, fetched=files)
        return await _read(self._readers, call.body, read, terms)

    def _compute(self, what: Compute) -> Handle:
        async def handle(call: Call) -> None:
            await send_object(call.send, await _read(self._drawers, call.body, what, self._terms))

        return handle

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Count a question, until it is answered."""
        self._asked += 1
        try:
            yield
        finally:
            self._asked, self._asked_at = self._asked - 1, time.monotonic()

    async def _health(self, _request: Request) -> Response:
        if self.is_stopping:
            return JSONResponse({"status": "stopping"}, 503)
        core = self._core.status()
        is_loading = core.model is None and core.waiting > 0
        return JSONResponse({"status": "loading" if is_loading else "ok"})

    async def _count(self, _request: Request) -> Response:
        text = metrics_text(self._counts, self._core.status())
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def _describe(self, _request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._described))

    async def _list_models(self, _request: Request) -> Response:
        models = [self._model(name) for name in self._core.models]
        return JSONResponse({"object": "list", "data": models})

    async def _show_model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name not in self._core.models:
            known = ", ".join(self._core.models)
            raise UnknownModel(f"there is no model {name!r:.80} here, expected {known}")
        return JSONResponse(self._model(name))

    async def _refused(self, request: Request, error: Exception) -> Response:
        """Answer for a path or a method that there is not."""
        assert isinstance(error, HTTPException)
        method, path, headers = request.method, request.url.path, dict(error.headers or {})
        if error.status_code == 405:
            code = "method_not_allowed"
            text = f"the method of {path:.80} is {method:.20}, expected {headers['Allow']}"
        else:
            code = "not_found"
            text = f"there is no path {path!r:.80} here; {meant(path, self._paths)}"
        described = HttpError(error.status_code, text, code, tuple(headers.items()))
        return await _failed(request, described)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "mlx_lfm2vl"}


class _Posted:
    """An endpoint that takes JSON."""

    def __init__(self, bodies: Bodies, handle: Handle) -> None:
        self._bodies, self._handle = bodies, handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, _ = scope.get("client") or ("", 0)
        with contextlib.suppress(ClientGone):
            async with self._bodies.read(scope["headers"], receive) as body:
                await self._handle(Call(body, client, receive, send))


async def _read(
    threads: ThreadPoolExecutor,
    body: bytearray,
    read: Callable[[Mapping[str, Any], Terms], T],
    terms: Terms,
) -> T:
    """Read a body in another thread: images of some megabytes would hold up all answers."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(threads, lambda: read(parse_object(body), terms))


async def _failed(_request: Request, error: Exception) -> Response:
    if is_internal(error):
        report(error)
    status, headers, described = error_reply(error)
    return JSONResponse(described, status, headers)
