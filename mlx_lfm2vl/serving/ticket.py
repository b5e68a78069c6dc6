"""A request that was submitted: who waits for it, and how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from .request import Request, is_last

if TYPE_CHECKING:  # see `schedule`
    from .preparing import Large, Prepared, Weight

_NUMBERS = count(1)


class Ticket:
    """A request that was submitted.

    Attributes:
        request: what is asked.
        is_cancelled: whether nobody waits for the answer any more.
        is_over: whether the last event was delivered.
        is_counted: whether it counts in the meter.
        number: another one for each request.
        kind: model and `kv_bits`, which requests under way have in common.
        arrived: when it was submitted.
        begun: when its prompt began to be read.
        context: in which the host prepares it, so that what is logged then can be told apart.
        weight: which work it asks of the host; None if nobody has looked.
        prepared: what the host prepares of it.
        before: requests that go first, as it was told.
        has_text: whether its answer has begun.
    """

    def __init__(
        self,
        request: Request,
        model: str,
        deliver: Callable[[Any], object],
        wake: Callable[[], object],
        *,
        is_counted: bool = True,
    ) -> None:
        """
        Args:
            request: what is asked.
            model: full name of its model.
            deliver: called with every event.
            wake: called when it is cancelled.
            is_counted: whether it counts in the meter.
        """
        self.request, self._deliver, self._wake = request, deliver, wake
        self._lock = threading.Lock()
        self.is_cancelled = self.is_over = self.has_text = False
        self.number, self.kind = next(_NUMBERS), (model, request.options.kv_bits)
        self.arrived, self.begun, self.before = monotonic(), 0.0, -1
        self.context = copy_context()
        self.weight: Weight | None = None
        self.prepared: Future[Prepared | Large] | None = None
        self.is_counted = is_counted

    def is_wanted(self) -> bool:
        """Return whether somebody waits for the answer."""
        return not (self.is_cancelled or self.is_over)

    def cancel(self) -> None:
        """Say that nobody waits for the answer any more; no event follows. Any thread may."""
        self.is_cancelled = True
        self._wake()

    def tell(self, event: Any) -> None:
        """Deliver an event, unless the request is over. What `deliver` raises cancels it."""
        with self._lock:
            if not self.is_wanted():
                return
            self.is_over = is_last(event)
        try:
            self._deliver(event)
        except Exception:  # noqa: BLE001  such as that of a closed event loop
            self.is_cancelled = True
