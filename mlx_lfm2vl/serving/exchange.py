"""The seam between a protocol and its transport.

A protocol (chat completions, responses, skills) reads a body of JSON into an `Exchange`. A
transport (HTTP by asyncio, or a Unix socket in threads) runs its requests in the core, hands it
their events, and sends what it returns. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import Lfm2VLError
from ..images.limits import ImageLimits
from .request import Request
from .served import Served


@dataclass(frozen=True)
class Terms:
    """What a request may ask for.

    Attributes:
        find: returns the model of a name; see `Core.model`.
        limits: caps on images, their number too. `allow_url` says whether addresses may be fetched.
        max_tokens: of one answer; None allows what the model's context holds.
        max_answers: of one request (`n`).
        to_fetch: what the user can do so that addresses are fetched, where they are not.
        fetched: files by their addresses; see `Unfetched`.
    """

    find: Callable[[str], Served]
    limits: ImageLimits = field(default_factory=ImageLimits)
    max_tokens: int | None = None
    max_answers: int = 8
    to_fetch: str = "start the server with --allow-url"
    fetched: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


class Unfetched(Lfm2VLError):
    """A request names images by address, which its transport must fetch.

    The transport does that where it holds up nobody else, and reads the request again with the
    files in `Terms.fetched`.

    Attributes:
        fields: of the request, by the address that each holds.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(f"{', '.join(fields.values())} must be fetched first")
        self.fields = fields


@dataclass(frozen=True)
class Frame:
    """One server-sent event.

    Attributes:
        data: an object to write as JSON, or a line to write as it is.
        event: name of the event; empty has none.
    """

    data: Mapping[str, Any] | str
    event: str = ""


class Exchange(Protocol):
    """One HTTP request that was read, and how its answer is written."""

    @property
    def requests(self) -> list[Request]:
        """For the core, at least one. The transport runs them at the same time.

        It takes them out, so that their images are freed while they are answered.
        """
        ...

    @property
    def streams(self) -> bool:
        """Whether the client wants server-sent events."""
        ...

    def begin(self) -> list[Frame]:
        """Return what to send first. It is called once, before the first event is added."""
        ...

    def add(self, index: int, event: Any) -> list[Frame]:
        """Take an event of a request; return what to send now, in a stream.

        Args:
            index: of the request.
            event: see `request.Event`. An error is not given: the transport ends the exchange.
        """
        ...

    def end(self) -> list[Frame]:
        """Return what to send after the last event of all requests."""
        ...

    def fail(self, error: Exception) -> list[Frame]:
        """Return what to send when an answer fails in the middle of a stream."""
        ...

    def body(self) -> dict[str, Any]:
        """Return the whole answer as one object, after the last event.

        Raises:
            Lfm2VLError: what the model wrote is not in the form that was asked for.
        """
        ...


Read = Callable[[Mapping[str, Any], Terms], Exchange]
