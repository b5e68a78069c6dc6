"""The core of a process that stays: a queue of requests, and the engine that answers them.

Every front end (HTTP, the resident process, MCP, the plug-in) asks through `Core`. Any thread may.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ..errors import Lfm2VLError
from .request import Busy, Request, Stopping, UnknownModel, is_last
from .served import Served

if TYPE_CHECKING:  # it loads MLX, and a server listens before that
    from ..generation.engine import Engine

Deliver = Callable[[Any], object]


@dataclass(frozen=True)
class Limits:
    """What one process takes on.

    Attributes:
        rows: answers under way at the same time.
        waiting: requests that wait for their turn; more are refused.
        seconds: longest time of one answer, waiting included; None is no limit.
        keep_alive: seconds without a request after which the model is unloaded; None keeps it.
    """

    rows: int = 8
    waiting: int = 64
    seconds: float | None = None
    keep_alive: float | None = None


class Ticket:
    """A request that was submitted."""

    def __init__(self, request: Request, deliver: Deliver) -> None:
        self.request, self.deliver = request, deliver
        self.is_cancelled = False

    def cancel(self) -> None:
        """Say that nobody waits for the answer any more; no event follows. Any thread may."""
        self.is_cancelled = True


@dataclass(frozen=True)
class Status:
    """What a core is doing.

    Attributes:
        model: name of the model in memory; None if there is none.
        running: answers under way.
        waiting: requests that wait for their turn.
    """

    model: str | None
    running: int
    waiting: int


class Core:
    """Answers requests for the models that are served."""

    def __init__(self, models: Sequence[Served], limits: Limits | None = None) -> None:
        """
        Args:
            models: that requests may name; the first one is the default.
            limits: what the process takes on; None takes the defaults.
        """
        self.models = {model.name: model for model in models}
        self.limits = limits or Limits()
        self._default = models[0].name
        self._tickets: SimpleQueue[Ticket | None] = SimpleQueue()
        self._engine: Engine | None = None
        self._loaded: str | None = None
        self._running = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="mlx_lfm2vl core", daemon=True)
        self._thread.start()

    def model(self, name: str = "") -> Served:
        """Return a model that is served.

        Raises:
            UnknownModel: there is none of this name.
        """
        found = self.models.get(name or self._default)
        if found is None:
            raise UnknownModel(
                f"there is no model {name!r:.80} here, expected {', '.join(self.models)}"
            )
        return found

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Queue a request.

        Args:
            request: what is asked.
            deliver: called with every `Event`, in a thread of the core; it must not wait.

        Raises:
            Busy: the queue is full.
            Stopping: the process is ending.
            UnknownModel: see `model`.
        """
        self.model(request.model)
        if self._stopping:
            raise Stopping("the server is stopping; ask again when it is back")
        if self._tickets.qsize() >= self.limits.waiting:
            raise Busy(f"{self._tickets.qsize()} requests are waiting, the limit", 5)
        ticket = Ticket(request, deliver)
        self._tickets.put(ticket)
        return ticket

    def stream(self, request: Request) -> Iterator[Any]:
        """Submit a request and yield its events; closing the iterator cancels the request."""
        events: SimpleQueue[Any] = SimpleQueue()
        ticket = self.submit(request, events.put)
        try:
            while True:
                yield (event := events.get())
                if is_last(event):
                    return
        finally:
            ticket.cancel()

    async def astream(self, request: Request) -> AsyncGenerator[Any, None]:
        """Do what `stream` does, for asyncio; a task that is cancelled cancels the request."""
        import asyncio

        loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def deliver(event: object) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        ticket = self.submit(request, deliver)
        try:
            while True:
                yield (event := await events.get())
                if is_last(event):
                    return
        finally:
            ticket.cancel()

    def status(self) -> Status:
        """Return what the core is doing."""
        return Status(self._loaded, self._running, self._tickets.qsize())

    def stop(self, seconds: float = 30.0) -> None:
        """Take no more requests, let running answers finish within a time, and end."""
        self._stopping = True
        self._tickets.put(None)
        self._thread.join(seconds)

    def _serve(self) -> None:
        while (ticket := self._tickets.get()) is not None:
            self._running = 1
            try:
                self._answer(ticket)
            except Lfm2VLError as error:
                ticket.deliver(error)
            self._running = 0

    def _answer(self, ticket: Ticket) -> None:
        request, engine = ticket.request, self._opened(ticket.request.model)
        if request.answers:
            ticket.deliver(engine.score(request.messages, request.answers, request.options))
            return
        for piece in engine.stream(request.messages, request.options):
            if ticket.is_cancelled:
                return
            ticket.deliver(piece)

    def _opened(self, name: str) -> Engine:
        model = self.model(name)
        if self._engine is None or self._loaded != model.name:
            self._engine, self._loaded = model.open(), model.name
        return self._engine
