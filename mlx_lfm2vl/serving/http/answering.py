"""The answer of an exchange over HTTP: one object, or server-sent events.

- A client that goes away cancels its requests at once, before the first token too.
- A slow reader holds up its own task alone. The core does not wait for it: its events queue up
  here, at most one for each token of the answer.
- The status of a stream is sent with its first frame or ping. An error before that has a status of
  its own. A later one is a frame of the protocol, and the last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from ...errors import Lfm2VLError
from ..core import Core, Ticket
from ..exchange import Exchange, Frame
from ..request import Event, Request, is_last
from .bodies import ClientGone, Receive
from .errors import is_internal, report
from .sse import PING, encoded, to_json

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

STREAM_HEADERS = {
    # Without the charset, Python's requests reads a text as Latin-1.
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",
}


class Running:
    """The requests of an exchange in the core. Leaving the context cancels what is not answered."""

    def __init__(self, core: Core, requests: list[Request]) -> None:
        """
        Args:
            core: which answers them.
            requests: that are taken out when the context begins.
        """
        self._core, self._requests = core, requests
        self._arrived = asyncio.Queue[tuple[int, Event]]()
        self._tickets: list[Ticket] = []
        self._open = len(requests)

    def __enter__(self) -> Self:
        """Submit the requests.

        Raises:
            Lfm2VLError: see `Core.submit`.
        """
        # With `self` in it, the tickets would hold the images of the requests in a cycle.
        loop, arrived = asyncio.get_running_loop(), self._arrived

        def deliver(index: int, event: Event) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (index, event))

        try:
            for index in range(self._open):
                # The core frees the images of a request that nobody else holds.
                ticket = self._core.submit(self._requests.pop(0), partial(deliver, index))
                self._tickets.append(ticket)
        except Lfm2VLError:
            self._cancel()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()

    @property
    def is_done(self) -> bool:
        """Whether all requests are answered and their events are taken."""
        return not self._open

    async def next(self, seconds: float | None = None) -> list[tuple[int, Event]]:
        """Return (index of the request, event) of all that has come, at least one.

        Args:
            seconds: to wait at most; then the list is empty. None waits.
        """
        try:
            async with asyncio.timeout(seconds):
                taken = [await self._arrived.get()]
        except TimeoutError:
            return []
        while not self._arrived.empty():
            taken.append(self._arrived.get_nowait())
        self._open -= sum(is_last(event) for _, event in taken)
        return taken

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()


async def answer(
    exchange: Exchange,
    core: Core,
    receive: Receive,
    send: Send,
    ping_seconds: float,
) -> None:
    """Run an exchange and send its answer, until that is sent or the client goes away.

    Args:
        exchange: that was read.
        core: which answers its requests.
        receive: the rest of what the client sends, which ends when it goes away.
        send: the answer to the client; it waits for a slow reader.
        ping_seconds: longest silence of a stream.

    Raises:
        Lfm2VLError: there is no answer, and nothing was sent.
        ClientGone: nobody waits for it any more.
    """
    with Running(core, exchange.requests) as running:
        if exchange.streams:
            sent = _Stream(exchange, send, ping_seconds).run(running)
        else:
            sent = _send_whole(exchange, running, send)
        await while_there(receive, sent)


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do something for a client, until it is done or the client goes away.

    Args:
        receive: the rest of what the client sends, which ends when it goes away.
        work: to be cancelled then.

    Raises:
        ClientGone: the client has gone.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
        # An error's traceback names this frame. With its task in it, the error would hold itself,
        # and the images of the request, until the garbage collector finds the cycle.
        del working, leaving, task


async def send_object(
    send: Send, value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """Send a JSON object as an answer of its own."""
    body = to_json(value)
    length = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    await _start(send, status, {**length, **(headers or {})})
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded_headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded_headers})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_whole(exchange: Exchange, running: Running, send: Send) -> None:
    while not running.is_done:
        for index, event in await running.next():
            if isinstance(event, Lfm2VLError):
                try:
                    raise event
                finally:
                    del event  # see `while_there`
            exchange.add(index, event)
    await send_object(send, exchange.body())


class _Stream:
    """The answer as server-sent events."""

    def __init__(self, exchange: Exchange, send: Send, ping_seconds: float) -> None:
        self._exchange, self._send, self._ping_seconds = exchange, send, ping_seconds
        self._opening = encoded(exchange.begin())  # sent with the first frame or ping
        self._is_started = False
        self._due = time.monotonic() + ping_seconds  # when to break the silence

    async def run(self, running: Running) -> None:
        """Send what the exchange makes of the events.

        Raises:
            Lfm2VLError: there is no answer, and nothing was sent.
        """
        try:
            while not running.is_done:
                taken = await running.next(self._due - time.monotonic())
                frames, failure = self._frames(taken)
                if frames:
                    await self._write(encoded(frames))
                elif time.monotonic() >= self._due:
                    await self._write(PING)
                if failure is not None:
                    try:
                        raise failure
                    finally:
                        del failure, taken  # see `while_there`
            await self._write(encoded(self._exchange.end()))
        except Exception as error:  # of a fault of our own, too, the client is told here only
            if not self._is_started:
                raise
            if is_internal(error):
                report(error)
            await self._write(encoded(self._exchange.fail(error)))
        await self._send({"type": "http.response.body", "body": b""})

    def _frames(self, taken: Sequence[tuple[int, Event]]) -> tuple[list[Frame], Lfm2VLError | None]:
        """Return what to send for events, and the error at which they end, if any."""
        frames: list[Frame] = []
        for index, event in taken:
            if isinstance(event, Lfm2VLError):
                return frames, event
            frames += self._exchange.add(index, event)
        return frames, None

    async def _write(self, data: bytes) -> None:
        if not self._is_started:
            self._is_started = True
            await _start(self._send, 200, STREAM_HEADERS)
            data = self._opening + data
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._due = time.monotonic() + self._ping_seconds
