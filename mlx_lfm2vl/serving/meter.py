"""Counting what a core does: for its status, and to say when a full queue has room again."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from ..errors import Lfm2VLError
from ..generation.result import Result
from ..generation.scores import Scores

# Upper bounds of the classes in which times to the first token are counted, in seconds.
CLASSES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, math.inf)
MEMORY = 0.2  # weight of the newest answer in the mean duration
LONGEST_WAIT = 600  # seconds


@dataclass(frozen=True)
class FirstTokens:
    """Times from the arrival of requests to their first text.

    Attributes:
        counts: of each of `CLASSES`.
        seconds: sum of all.
    """

    counts: tuple[int, ...] = (0,) * len(CLASSES)
    seconds: float = 0.0

    def __add__(self, seconds: float) -> FirstTokens:
        number = next(i for i, bound in enumerate(CLASSES) if seconds <= bound)
        counts = (*self.counts[:number], self.counts[number] + 1, *self.counts[number + 1 :])
        return FirstTokens(counts, self.seconds + seconds)


@dataclass
class Meter:
    """Sums over all requests of a core.

    Attributes:
        requests: that were taken.
        answers: that were completed, with scores.
        cancelled: requests that their client has given up.
        errors: number of requests that ended in an error, by the error's class.
        refused: requests that found the queue full.
        prompt_tokens: of completed answers.
        cached_tokens: of these prompts, tokens that were not read again.
        answer_tokens: written in completed answers.
        first_tokens: times to the first text.
        peak_bytes: largest memory of MLX in any answer.
    """

    requests: int = 0
    answers: int = 0
    cancelled: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    first_tokens: FirstTokens = FirstTokens()
    peak_bytes: int = 0
    _mean: float | None = None  # seconds of an answer, without waiting

    def answered(self, answer: Result | Scores, seconds: float) -> None:
        """Count a completed request, which took so long without waiting."""
        self.answers += 1
        self.prompt_tokens += answer.prompt_tokens
        self.cached_tokens += answer.cached_tokens
        if isinstance(answer, Result):
            self.answer_tokens += len(answer.token_ids)
            self.peak_bytes = max(self.peak_bytes, answer.peak_memory_bytes)
        mean = seconds if self._mean is None else self._mean
        self._mean = mean + MEMORY * (seconds - mean)

    def unanswered(self, error: Lfm2VLError | None) -> None:
        """Count a request that ended in an error; without one its client has given it up."""
        if error is None:
            self.cancelled += 1
        else:
            self.errors[type(error).__name__] += 1

    def until_room(self, before: int, rows: int) -> int:
        """Return the seconds until a request would begin, as far as one can tell.

        Args:
            before: requests that go first.
            rows: answers under way at the same time.
        """
        seconds = (1.0 if self._mean is None else self._mean) * (before + 1) / rows
        return min(LONGEST_WAIT, max(1, math.ceil(seconds)))
