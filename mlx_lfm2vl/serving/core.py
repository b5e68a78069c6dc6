"""The core of a process that stays: a queue of requests, and the engine that answers them.

Every front end (HTTP, the resident process, MCP, the plug-in) asks through `Core`. Any thread may.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from ..options import AnswerOptions
from .request import Request, UnknownModel, is_last
from .schedule import Limits, Schedule, Status
from .served import Served
from .ticket import Ticket

Deliver = Callable[[Any], object]


class Core:
    """Answers requests for the models that are served.

    Answers are written side by side, a token of each at a time; see `schedule` and `under_way`.
    """

    def __init__(self, models: Sequence[Served], limits: Limits | None = None) -> None:
        """
        Args:
            models: that requests may name; the first one is the default.
            limits: what the process takes on; None takes the defaults.
        """
        self.models = {model.name: model for model in models}
        self.limits = limits or Limits()
        self._default = models[0].name
        self._schedule = Schedule(self.models, self.limits)

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
        model = self.model(request.model).name
        ticket = Ticket(request, model, deliver, self._schedule.wake)
        self._schedule.add(ticket)
        return ticket

    def warm_up(self, deliver: Deliver) -> None:
        """Load the first model before anybody asks, by a question of one token.

        Args:
            deliver: see `submit`. The meter does not count this question.
        """
        question = Request("Hi", AnswerOptions(max_tokens=1))
        wake = self._schedule.wake
        self._schedule.add(Ticket(question, self._default, deliver, wake, is_counted=False))

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
        return self._schedule.status()

    def stop(self, seconds: float = 30.0) -> None:
        """Take no more requests, let running answers finish within a time, and end.

        Those that wait, and those that are not complete by then, get `Stopping`.
        """
        self._schedule.stop(seconds)
