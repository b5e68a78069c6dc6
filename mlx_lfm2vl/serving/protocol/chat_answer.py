"""The answers to a chat request: one object, or chunks of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...generation.result import Piece, Result
from ..exchange import Frame
from ..http.errors import error_reply
from ..request import Progress, Request
from .token_logprobs import token_logprobs
from .usage import new_id, token_usage

DONE = Frame("[DONE]")


@dataclass(frozen=True)
class Shown:
    """What a client wants to be told besides the answer.

    Attributes:
        usage: the tokens, in a chunk of their own at the end of a stream.
        progress: chunks that say how far a question is before its first token.
        result: the object of `Result.to_dict`, and the ids of tokens as they come.
        tokens: bytes of all tokens by id, to describe probabilities; None leaves these out.
    """

    usage: bool = False
    progress: bool = False
    result: bool = False
    tokens: Sequence[bytes] | None = None


class ChatExchange:
    """A chat request and its answers; see `Exchange`."""

    def __init__(self, requests: list[Request], model: str, shown: Shown, *, streams: bool) -> None:
        """
        Args:
            requests: of the same prompt, one for each answer that is wanted.
            model: name of the model, for the reply.
            shown: what the client is told besides.
            streams: whether it wants chunks.
        """
        self.requests, self.streams = requests, streams
        self._count = len(requests)
        self._shown = shown
        self._results: dict[int, Result] = {}
        self._same = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": model}

    def begin(self) -> list[Frame]:
        """Return a chunk for each answer that says who writes it."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk([_choice(index, delta)]) for index in range(self._count)]

    def add(self, index: int, event: Any) -> list[Frame]:
        """Take an event of an answer; return the chunks that it makes."""
        if isinstance(event, Progress):
            if not self._shown.progress:
                return []
            told = {"stage": event.stage, "done": event.done, "total": event.total}
            return [self._chunk([], {"progress": told})]
        assert isinstance(event, Piece)
        frames: list[Frame] = []
        extra = self._extra(event)
        if event.text or (event.token_ids and (extra or self._shown.tokens)):
            frames.append(self._chunk([self._text_choice(index, event)], extra))
        if event.result is not None:
            frames += self._last_chunks(index, event.result)
            self._results[index] = event.result
        return frames

    def end(self) -> list[Frame]:
        """Return the usage, if it is wanted, and the mark at the end of a stream."""
        if not self._shown.usage:
            return [DONE]
        usage = token_usage(self._ordered())
        return [Frame({**self._head(), "choices": [], "usage": usage}), DONE]

    def fail(self, error: Exception) -> list[Frame]:
        """Return the error in place of the rest of the stream."""
        return [Frame(error_reply(error)[2])]

    def body(self) -> dict[str, Any]:
        """Return all answers as one object."""
        results = self._ordered()
        choices = [self._whole_choice(index, result) for index, result in enumerate(results)]
        body = {
            **self._same,
            "object": "chat.completion",
            "choices": choices,
            "usage": token_usage(results),
        }
        if self._shown.result:
            body["lfm2vl"] = {"result": results[0].to_dict()}
        return body

    def _ordered(self) -> list[Result]:
        return [self._results[index] for index in range(self._count)]

    def _head(self) -> dict[str, Any]:
        return {**self._same, "object": "chat.completion.chunk"}

    def _chunk(self, choices: list[dict[str, Any]], extra: dict[str, Any] | None = None) -> Frame:
        chunk = {**self._head(), "choices": choices}
        if self._shown.usage:
            chunk["usage"] = None  # it comes at the end
        return Frame({**chunk, "lfm2vl": extra} if extra else chunk)

    def _extra(self, piece: Piece) -> dict[str, Any]:
        """Return the tokens of a piece, where the client wants the whole result."""
        if not self._shown.result:
            return {}
        return {"token_ids": piece.token_ids, "logprobs": piece.logprobs}

    def _text_choice(self, index: int, piece: Piece) -> dict[str, Any]:
        logprobs = self._logprobs(piece.token_ids, piece.logprobs)
        return _choice(index, {"content": piece.text}, logprobs)

    def _last_chunks(self, index: int, result: Result) -> list[Frame]:
        """Return the calls of an answer, and why it ends."""
        frames: list[Frame] = []
        for number, call in enumerate(_calls(result)):
            delta = {"tool_calls": [{"index": number, **call}]}
            frames.append(self._chunk([_choice(index, delta)]))
        extra = {"result": result.to_dict()} if self._shown.result else None
        choice = {**_choice(index, {}), "finish_reason": finish_reason(result)}
        return [*frames, self._chunk([choice], extra)]

    def _whole_choice(self, index: int, result: Result) -> dict[str, Any]:
        calls = _calls(result)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": result.text if result.text or not calls else None,
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(result.token_ids, result.logprobs),
            "finish_reason": finish_reason(result),
        }

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[float] | None
    ) -> dict[str, Any] | None:
        tokens = self._shown.tokens
        if tokens is None or logprobs is None:
            return None
        return {"content": token_logprobs(tokens, token_ids, logprobs), "refusal": None}


def finish_reason(result: Result) -> str:
    """Return why an answer has ended: "stop", "length" or "tool_calls"."""
    if result.tool_calls and result.finish_reason == "stop":
        return "tool_calls"
    return result.finish_reason


def arguments_text(call: dict[str, Any]) -> str:
    """Return the arguments of a call as JSON."""
    return json.dumps(call["arguments"], ensure_ascii=False)


def _choice(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _calls(result: Result) -> list[dict[str, Any]]:
    return [
        {
            "id": new_id("call"),
            "type": "function",
            "function": {"name": call["name"], "arguments": arguments_text(call)},
        }
        for call in result.tool_calls
    ]
