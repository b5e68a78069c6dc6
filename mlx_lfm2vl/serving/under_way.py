"""What one model has under way: prompts that are being read, and a batch of answers.

- A turn reads some tokens of prompts, about as many as a whole view has, and decodes one token of
  every answer. So an answer waits for a part of a long prompt, never for all of it, and several
  short prompts join together.
- Every other part is of the oldest prompt, so that each comes to its end. The parts between are of
  the prompt with the least left to read, so that a short question need not wait for the images of
  another one.
- What an answer has read stays in the store: the next turn of a chat reads only what is new.
- A prompt waits while an older one reads an image of its own, which it then finds in the store.
- An error of one request is an event of that request. If a step of the batch fails, the requests in
  it fail, and the next ones get a new batch. If an answer cannot be kept, the store is emptied.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx

from ..errors import Lfm2VLError
from ..generation.arrival import Arrival, arriving
from ..generation.batch import DRAFTED, Batch
from ..generation.engine import Engine
from ..generation.prefix_store import PrefixStore
from ..generation.prepare import Stage
from ..generation.score import Question, scoring
from ..generation.scores import Scores
from .preparing import Prepared
from .request import Progress, as_error

logger = logging.getLogger(__name__)

PART = 256  # tokens that are encoded or read in one turn, unless a single pass has more


Event = Any  # see `request.Event`; `arriving` and `scoring` are generic over what they end with


@dataclass(eq=False)
class _Reading:
    """A prompt that is being read."""

    number: int
    prepared: Prepared
    steps: Generator[Stage, None, Arrival | Scores]
    left: int = field(init=False)  # tokens to encode and to read

    def __post_init__(self) -> None:
        self.left = self.prepared.tokens

    def step(self) -> Progress | Arrival | Scores:
        """Read the next part and wait for it; return how far it is, or what it has led to."""
        try:
            stage = next(self.steps)
        except StopIteration as end:
            return end.value
        mx.synchronize()  # or parts would pile up, and the answers of others wait for all of them
        prompt = self.prepared.work.prompt
        before = len(prompt.input_ids) if stage.name == "encode" else 0
        self.left = before + stage.total - stage.done
        return Progress(stage.name, stage.done, stage.total)


class UnderWay:
    """The requests that one model is answering. All methods run on the device's thread.

    Attributes:
        numbers: of the requests.
    """

    def __init__(self, engine: Engine, kv_bits: int) -> None:
        """
        Args:
            engine: that answers.
            kv_bits: of all requests.
        """
        self._engine, self._kv_bits = engine, kv_bits
        self._store = engine.store if engine.store is not None else PrefixStore()
        self._readings: list[_Reading] = []  # in the order of arrival
        self._batch = Batch(engine.model, kv_bits)
        self._parts = 0
        self.numbers: set[int] = set()

    def begin(self, number: int, prepared: Prepared) -> None:
        """Take on a request.

        Args:
            number: of the request, the same in all its events.
            prepared: the request.
        """
        if not self.numbers:
            mx.reset_peak_memory()
        self.numbers.add(number)
        self._readings.append(_Reading(number, prepared, self._steps(number, prepared)))

    def drop(self, number: int) -> None:
        """Give up a request; no event of it follows."""
        self.numbers.discard(number)
        self._readings = [reading for reading in self._readings if reading.number != number]
        for row in self._batch.rows:
            row.has_left = row.has_left or row.number == number
        self._free()

    def turn(self) -> list[tuple[int, Event]]:
        """Do a part of the work; return new events with the numbers of their requests."""
        events: list[tuple[int, Event]] = []
        self._keep_answers()  # before prompts are read that continue them
        arrivals = self._read(events)
        rows = [*self._batch.rows, *(row for arrival in arrivals for row in arrival.rows)]
        try:
            has_first = self._batch.join(arrivals)
            if self._batch.rows and not has_first:  # first tokens are told before others are made
                self._batch.step()
            for row in self._batch.rows:
                event = row.error or row.piece()
                if event is not None:
                    events.append((row.number, event))
        except Exception as error:  # noqa: BLE001  the device may fail in many ways
            failed = as_error(error)
            events += [(row.number, failed) for row in rows if not row.is_over]
            self._batch = Batch(self._engine.model, self._kv_bits)
        over = {row.number for row in rows if row.is_over}
        ended = {number for number, event in events if isinstance(event, Lfm2VLError | Scores)}
        self.numbers -= over | ended
        self._free()
        return events

    def _free(self) -> None:
        """Free the caches of those that are over; while there are others, the next turn does."""
        if not self.numbers:
            self._keep_answers()
            self._batch.join()

    def _keep_answers(self) -> None:
        """Leave to the store what answers have read, if there is memory for it.

        Those who asked have their answers by now, and an error here would be one of all others.
        """
        try:
            self._batch.keep_answers(self._store)
        except Exception as error:  # noqa: BLE001  see `turn`
            self._store.clear()
            what = type(error).__name__
            logger.warning("what was read before is forgotten: %s: %.200s", what, error)

    def _read(self, events: list[tuple[int, Event]]) -> list[Arrival]:
        """Read a part of a prompt, and what else is short; return the rows that can join."""
        arrivals, room = list[Arrival](), PART
        while room > 0 and (reading := self._next()):
            before = reading.left
            if room < PART and before > room:  # its next part may be a whole pass
                break
            found: Any
            try:
                found = reading.step()
            except Exception as error:  # noqa: BLE001  one request must not end the others
                found = as_error(error)
            room -= before - reading.left
            if not isinstance(found, Progress):
                self._readings.remove(reading)
            if isinstance(found, Arrival):
                arrivals.append(found)
            else:
                events.append((reading.number, found))
        return arrivals

    def _next(self) -> _Reading | None:
        """Return the prompt to go on with."""
        self._parts += 1
        ready: list[_Reading] = []
        images = set[bytes]()
        for reading in self._readings:
            if not images & reading.prepared.keys:
                ready.append(reading)
            images |= reading.prepared.keys
        if not ready:
            return None
        return ready[0] if self._parts % 2 else min(ready, key=lambda reading: reading.left)

    def _steps(self, number: int, prepared: Prepared) -> Generator[Stage, None, Arrival | Scores]:
        engine, work = self._engine, prepared.work
        if isinstance(work, Question):
            return (yield from scoring(engine.model, work, self._store))
        drafting = engine.drafting
        if len(self.numbers) > DRAFTED:  # as the batch will be too large for drafts
            drafting = None
            work = replace(work, options=replace(work.options, lookup=0))
        return (
            yield from arriving(
                engine.model,
                engine.processor,
                number,
                work,
                prepared.guide,
                self._store,
                drafting,
            )
        )
