"""What a process that serves others logs, handed to those whom it concerns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .wire import Note

Hear = Callable[[Note], object]


class Notes(logging.Handler):
    """Hands on the notes of this package.

    Images are decoded in the thread of their request, which gets its own notes. Which request the
    thread of the model is working for is not known: its notes go to all that are under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._threads: dict[int, Hear] = {}
        self._under_way: list[Hear] = []
        package = logging.getLogger(__name__.partition(".")[0])
        package.addHandler(self)
        package.propagate = False

    @contextmanager
    def to(self, hear: Hear) -> Iterator[None]:
        """Hand on what is logged meanwhile, except for what another thread logs for itself."""
        self._under_way.append(hear)
        try:
            yield
        finally:
            self._under_way.remove(hear)

    @contextmanager
    def of_this_thread(self, hear: Hear) -> Iterator[None]:
        """Hand on what this thread logs meanwhile, to nobody else."""
        self._threads[threading.get_ident()] = hear
        try:
            yield
        finally:
            del self._threads[threading.get_ident()]

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a note on."""
        own = self._threads.get(threading.get_ident())
        for hear in [own] if own else list(self._under_way):
            hear(Note(record.getMessage()))
