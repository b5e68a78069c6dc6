"""Several calls to a resident process at a time, which answers them as a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ...errors import InputError, Lfm2VLError
from .http import Question

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Ask = Callable[[Asked, Question], Answer]

logger = logging.getLogger(__name__)

PAUSE = 0.05  # seconds until a source is asked again that has nothing yet


class _End(Enum):
    END = "end"


def answer_together(
    ask: Ask[Asked, Answer], items: Iterable[Asked | None], batch_size: int
) -> Iterator[tuple[int, Answer | Lfm2VLError]]:
    """Ask about items, each in a thread of its own, and yield each answer when it is there.

    Notes about them are logged in the order of the items, as one process alone meets them.

    Args:
        ask: asks about one item by calls of the question that it is given.
        items: taken one by one, as there is room. None says that the next is not there yet.
        batch_size: most calls at the same time.

    Yields:
        The number of an item, from 0, and its answer or error.

    Raises:
        InputError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    return _answers(ask, iter(items), batch_size)


def _answers(
    ask: Ask[Asked, Answer], supply: Iterator[Asked | None], batch_size: int
) -> Iterator[tuple[int, Answer | Lfm2VLError]]:
    outcomes: SimpleQueue[tuple[int, Answer | BaseException | _Note]] = SimpleQueue()
    running: dict[int, Question] = {}
    notes = _Notes()

    def work(number: int, item: Asked, question: Question) -> None:
        try:
            outcomes.put((number, ask(item, question)))
        except BaseException as error:  # noqa: BLE001  raised in the thread that waits
            outcomes.put((number, error))

    started, is_more = 0, True
    try:
        while is_more or running:
            waits = True
            if is_more:  # there is room: when all are taken, the next outcome is waited for
                item = next(supply, _End.END)
                if isinstance(item, _End):
                    is_more = False
                    continue
                waits = item is None
                if item is not None:
                    running[started] = Question(partial(_tell, outcomes, started))
                    Thread(target=work, args=(started, item, running[started]), daemon=True).start()
                    started += 1
            is_full = not is_more or len(running) >= batch_size
            outcome = _next(outcomes, None if is_full else PAUSE if waits else 0)
            if outcome is None:
                continue
            number, answer = outcome
            if isinstance(answer, _Note):
                notes.add(number, answer.text)
                continue
            notes.add(number, "")
            del running[number]
            if isinstance(answer, BaseException) and not isinstance(answer, Lfm2VLError):
                raise answer
            yield number, answer
    finally:
        for question in running.values():
            question.leave()


@dataclass(frozen=True)
class _Note:
    """What a question has heard; see `Question.hear`."""

    text: str


def _tell(outcomes: SimpleQueue[Any], number: int, text: str) -> None:
    outcomes.put((number, _Note(text)))


class _Notes:
    """Logs notes in the order of their items. Those of one wait until all before it were read."""

    def __init__(self) -> None:
        self._held: dict[int, list[str]] = {}
        self._read: set[int] = set()
        self._turn = 0

    def add(self, number: int, text: str) -> None:
        """Take a note about an item; an empty one says that it was read."""
        if number < self._turn:
            if text:  # about its answer
                logger.warning("%s", text)
            return
        if text:
            self._held.setdefault(number, []).append(text)
        else:
            self._read.add(number)
        while True:
            for held in self._held.pop(self._turn, []):
                logger.warning("%s", held)
            if self._turn not in self._read:
                return
            self._read.remove(self._turn)
            self._turn += 1


def _next(
    outcomes: SimpleQueue[tuple[int, Answer | BaseException | _Note]], seconds: float | None
) -> tuple[int, Answer | BaseException | _Note] | None:
    """Return the next outcome; None if there is none within a time. None waits without end."""
    try:
        return outcomes.get(timeout=seconds) if seconds != 0 else outcomes.get_nowait()
    except Empty:
        return None
