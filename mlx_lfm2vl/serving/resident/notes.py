"""What a process that serves others logs, handed to those whom it concerns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .wire import Note

Hear = Callable[[Note], object]

_HEAR: ContextVar[Hear | None] = ContextVar("hear", default=None)


class Notes(logging.Handler):
    """Hands each note of this package to the request that it is about, and the others to nobody.

    A request is known by its context. The core's threads and the device's thread work for it in a
    copy of that context.
    """

    def __init__(self) -> None:
        super().__init__()
        package = logging.getLogger(__name__.partition(".")[0])
        package.addHandler(self)
        package.propagate = False

    @contextmanager
    def to(self, hear: Hear) -> Iterator[None]:
        """Hand on what is logged in this context meanwhile, and in copies of it later."""
        token = _HEAR.set(hear)
        try:
            yield
        finally:
            _HEAR.reset(token)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a note on."""
        hear = _HEAR.get()
        if hear is not None:
            hear(Note(record.getMessage()))
