"""An answer as it grows: text, end tokens, stop strings, and the finished result."""

import time
from collections.abc import Container, Sequence
from typing import Any

import mlx.core as mx

from ..options import AnswerOptions, Sampling
from ..prompt.processor import Inputs
from ..prompt.tokenizer import Tokenizer
from .answer_text import AnswerText
from .loop import Drafts
from .result import FinishReason, Piece, Result, Timings


class Clock:
    """Measures the stages of an answer in seconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last call, or since the clock was made."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last


class Answer:
    """Turns tokens into text and decides when the answer ends.

    Attributes:
        token_ids: tokens of the answer so far, without the end token.
        text: text returned so far.
        logprobs: of `token_ids`; empty if not requested.
        finish_reason: None until the answer ends.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_ids: Container[int],
        options: AnswerOptions,
        start: str = "",
    ) -> None:
        """
        Args:
            tokenizer: of the model.
            end_ids: ids that end the answer and do not belong to it.
            options: for the stop strings, special tokens, `max_tokens` and `logprobs`.
            start: text that the prompt ends with; the first text returned begins with it. Stop
                strings are not looked for in it.
        """
        self._stream = AnswerText(tokenizer, options.special_tokens)
        self._start = start
        self._stops = StopStrings(options.stop)
        self._end_ids, self._options = end_ids, options
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None

    def add(
        self, token: int, logprob: float | None = None, ended: FinishReason | None = None
    ) -> str:
        """Add a token and return the new text.

        Text that may turn out to be the beginning of a stop string or part of a character is held
        back until a later token, or the end of the answer. With `ended` that is this token.
        """
        if token in self._end_ids:
            self.finish_reason = ended or "stop"
            return self._give(self._stops.add(self._stream.finish()) + self._stops.finish())
        self.token_ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        piece = self._stops.add(self._stream.add(token))
        if self._stops.found:
            self.finish_reason = "stop"
        elif ended or len(self.token_ids) == self._options.max_tokens:
            self.finish_reason = ended or "length"
            piece += self._stops.add(self._stream.finish()) + self._stops.finish()
        return self._give(piece)

    def rest(self) -> str:
        """Return the text that is held back, such as half a tool call; the answer ends here."""
        held = self._stops.add(self._stream.finish()) + self._stops.finish()
        return self._give(held) if held else ""

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Tool calls so far, which do not stand in the text."""
        return self._stream.calls

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities were requested."""
        return self._options.logprobs

    def piece(self, text: str, begin: int, result: Result | None = None) -> Piece:
        """Return a piece with new text and the tokens from index `begin` on."""
        logprobs = self.logprobs[begin:] if self.wants_logprobs else None
        return Piece(text, self.token_ids[begin:], result, logprobs)

    def _give(self, piece: str) -> str:
        if self._stops.found:  # the last characters may complete a stop string
            self.finish_reason = "stop"
        piece, self._start = self._start + piece, ""
        self.text += piece
        return piece


class StopStrings:
    """Cuts a stream of text before the first stop string, which may span several pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """Add text and return what is safe to output; a possible stop string is held back."""
        self._held += text
        end = self._first_stop()
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        # Wait if a longer stop string that begins earlier may still be completed.
        if end >= 0 and len(self._held) - keep >= end:
            return self._cut(end)
        given, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return given

    def finish(self) -> str:
        """Return the text held back at the end of the stream, up to any stop string in it."""
        if self.found:
            return ""
        end = self._first_stop()
        return self._cut(end) if end >= 0 else self._held

    def _first_stop(self) -> int:
        """Return where the earliest complete stop string begins, or -1."""
        return min((at for at in map(self._held.find, self._stops) if at >= 0), default=-1)

    def _cut(self, end: int) -> str:
        self.found = True
        given, self._held = self._held[:end], ""
        return given

    def _overlap(self, stop: str) -> int:
        """Return the length of the longest proper prefix of `stop` that ends the held text."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


def make_result(
    answer: Answer,
    prompt: Inputs,
    sampling: Sampling,
    seed: int,
    timings: Timings,
    drafts: Drafts,
    cached: int = 0,
) -> Result:
    """Return the result of a finished answer.

    Args:
        answer: the finished answer.
        prompt: that it answers.
        sampling: used for it.
        seed: used for it.
        timings: of its stages.
        drafts: counts of its drafts.
        cached: tokens of the prompt that were not read again.
    """
    assert answer.finish_reason is not None
    return Result(
        text=answer.text,
        token_ids=answer.token_ids,
        finish_reason=answer.finish_reason,
        prompt_tokens=len(prompt.input_ids),
        image_tokens=prompt.image_tokens,
        cached_tokens=cached,
        images=prompt.images,
        sampling=sampling,
        seed=seed,
        timings=timings,
        peak_memory_bytes=mx.get_peak_memory(),
        drafted_tokens=drafts.tried,
        accepted_tokens=drafts.accepted,
        rounds=drafts.rounds,
        logprobs=answer.logprobs if answer.wants_logprobs else None,
        tool_calls=answer.tool_calls,
    )
