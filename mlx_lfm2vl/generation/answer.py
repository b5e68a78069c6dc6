"""An answer as it grows: tokens to text, end tokens, stop strings, and what it cost."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..images.geometry import ImagePlan
from ..options import Sampling
from ..prompt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Timings:
    """Seconds."""

    prepare: float  # decoding images, template, tokenizer
    first_token: float  # from patches to the first token on the host
    decode: float  # from the first token to the last

    @property
    def total(self) -> float:
        return self.prepare + self.first_token + self.decode


@dataclass(frozen=True)
class Result:
    """A finished answer. `str(result)` is its text."""

    text: str
    token_ids: list[int]  # without the end token
    finish_reason: str  # "stop": end token or stop string; "length": max_tokens
    prompt_tokens: int
    image_tokens: int  # of the prompt tokens
    images: list[ImagePlan]
    sampling: Sampling
    seed: int
    timings: Timings
    peak_memory_bytes: int
    drafted_tokens: int = 0  # by prompt lookup
    accepted_tokens: int = 0  # of the drafted ones

    def __str__(self) -> str:
        return self.text

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first token."""
        later = len(self.token_ids) - 1
        return later / self.timings.decode if later > 0 and self.timings.decode > 0 else 0.0


@dataclass(frozen=True)
class Piece:
    """New text of a streamed answer, and the tokens read since the last piece."""

    text: str
    token_ids: list[int]
    result: Result | None = None  # on the last piece


class Answer:
    """Takes tokens, gives out text, and knows when it is over.

    Attributes:
        token_ids: those that belong to the answer.
        text: what has been given out.
        finish_reason: "stop" or "length" once it is over, empty before.
    """

    def __init__(
        self, tokenizer: Tokenizer, end_ids: Container[int], stop: Sequence[str], max_tokens: int
    ) -> None:
        """
        Args:
            tokenizer: turns ids into text.
            end_ids: tokens that end an answer and are no part of it.
            stop: strings that end it and are cut off.
            max_tokens: after as many it ends.

        Raises:
            InputError: a stop string is empty, or no token is allowed.
        """
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}, expected at least 1")
        stop = [stop] if isinstance(stop, str) else stop
        if not all(stop):
            raise InputError("a stop string is empty")
        self._stream, self._stops = tokenizer.text_stream(), StopStrings(stop)
        self._end_ids, self._max_tokens = end_ids, max_tokens
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason = ""

    def add(self, token: int) -> str:
        """Text that is safe to give out."""
        if token in self._end_ids:
            self.finish_reason = "stop"
            return self._give(self._stops.add(self._stream.finish()) + self._stops.finish())
        self.token_ids.append(token)
        piece = self._stops.add(self._stream.add(token))
        if self._stops.found:
            self.finish_reason = "stop"
        elif len(self.token_ids) == self._max_tokens:
            self.finish_reason = "length"
            piece += self._stops.add(self._stream.finish()) + self._stops.finish()
        return self._give(piece)

    def _give(self, piece: str) -> str:
        if self._stops.found:  # at the very end, too
            self.finish_reason = "stop"
        self.text += piece
        return piece


class StopStrings:
    """Cuts a stream of text at the first stop string, even one spread over many pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """Text that is safe to give out; what may become a stop string is held back."""
        self._held += text
        end = self._first_stop()
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        # A longer stop string that begins earlier may still be completed.
        if end >= 0 and len(self._held) - keep >= end:
            return self._cut(end)
        given, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return given

    def finish(self) -> str:
        """What was held back for nothing."""
        if self.found:
            return ""
        end = self._first_stop()
        return self._cut(end) if end >= 0 else self._held

    def _first_stop(self) -> int:
        """Where the earliest complete stop string begins, or -1."""
        return min((at for at in map(self._held.find, self._stops) if at >= 0), default=-1)

    def _cut(self, end: int) -> str:
        self.found = True
        given, self._held = self._held[:end], ""
        return given

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
