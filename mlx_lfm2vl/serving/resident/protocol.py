"""The server's protocols over the socket of a resident process, for other programs.

`curl --unix-socket PATH http://localhost/v1/chat/completions` asks it, for example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from ...errors import Lfm2VLError
from ..core import Core
from ..exchange import Exchange, Read
from ..http.errors import is_internal
from ..http.sse import PING, encoded
from ..request import is_last

PING_SECONDS = 1.0  # of silence after which a stream gets a ping


def reader_of(target: str) -> Read | None:
    """Return what reads the bodies of a route; None if there is no such route."""
    if target == "/v1/chat/completions":
        from ..protocol.chat import read_chat

        return read_chat
    if target == "/v1/responses":
        from ..protocol.responses import read_responses

        return read_responses
    folder, _, name = target.rpartition("/")
    if folder == "/v1/skills":
        from ..protocol.skills import read_skill

        return partial(read_skill, name)
    return None


def whole(exchange: Exchange, core: Core, is_left: Callable[[], bool]) -> dict[str, Any]:
    """Run an exchange and return its answer.

    Args:
        exchange: that was read.
        core: which answers its requests.
        is_left: whether the client has gone.

    Raises:
        Lfm2VLError: there is no answer.
        ConnectionResetError: the client has gone.
    """
    for each in _events(exchange, core, is_left):
        if each is not None:
            exchange.add(*each)
    return exchange.body()


def stream(exchange: Exchange, core: Core, is_left: Callable[[], bool]) -> Iterator[bytes]:
    """Run an exchange and yield its server-sent events; see `whole`.

    An error before the first event is raised, so that it can have a status of its own. A later one
    is the last event; if it is internal, it is raised after that.
    """
    opening = encoded(exchange.begin())
    has_begun = False
    try:
        for each in _events(exchange, core, is_left):
            data = PING if each is None else encoded(exchange.add(*each))
            yield data if has_begun else opening + data
            has_begun = True
        yield encoded(exchange.end())
    except ConnectionError:
        raise
    except Exception as error:  # of a fault of our own, too, the client is told here only
        if not has_begun:
            raise
        yield encoded(exchange.fail(error))
        if is_internal(error):
            raise


def _events(
    exchange: Exchange, core: Core, is_left: Callable[[], bool]
) -> Iterator[tuple[int, Any] | None]:
    """Yield (number of the request, event), and None in a silence; cancel what is not answered."""
    arrived: SimpleQueue[tuple[int, Any]] = SimpleQueue()

    def deliver(number: int, event: Any) -> None:
        arrived.put((number, event))

    tickets = []
    try:
        while exchange.requests:  # the core frees the images of those that nobody else holds
            number = len(tickets)
            tickets.append(core.submit(exchange.requests.pop(0), partial(deliver, number)))
        waiting = len(tickets)
        while waiting:
            try:
                number, event = arrived.get(timeout=PING_SECONDS)
            except Empty:
                number, event = 0, None
            if is_left():  # of an answer that is sent whole, no write would tell before its end
                raise ConnectionResetError
            if event is None:
                yield None
                continue
            if isinstance(event, Lfm2VLError):
                try:
                    raise event
                finally:
                    del event  # or its traceback, which names the images, would hold it for long
            waiting -= is_last(event)
            yield number, event
    finally:
        for ticket in tickets:
            ticket.cancel()
