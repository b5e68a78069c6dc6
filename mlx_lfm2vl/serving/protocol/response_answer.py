"""The answer to a request for a response: one object, or the events of a stream."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import InputError
from ...generation.result import Piece, Result
from ..exchange import Frame
from ..http.errors import error_reply
from ..request import Request
from .chat_answer import arguments_text
from .token_logprobs import token_logprobs
from .usage import new_id, token_usage


class ResponseExchange:
    """A request for a response and its answer; see `Exchange`."""

    def __init__(
        self,
        request: Request,
        echoed: Mapping[str, Any],
        tokens: Sequence[bytes] | None,
        *,
        streams: bool,
    ) -> None:
        """
        Args:
            request: for the core.
            echoed: fields of the request that the response repeats.
            tokens: bytes of all tokens by id, to describe probabilities; None leaves these out.
            streams: whether the client wants events.
        """
        self.requests, self.streams = [request], streams
        self._tokens = tokens
        self._same = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": request.model,
            **echoed,
        }
        self._message_id = new_id("msg")
        self._is_open = False  # whether the message has begun in the stream
        self._number = 0  # of the next event
        self._result: Result | None = None
        self._output: list[dict[str, Any]] = []

    def begin(self) -> list[Frame]:
        """Return that the response is under way."""
        response = self._response("in_progress")
        return [
            self._frame("response.created", response=response),
            self._frame("response.in_progress", response=response),
        ]

    def add(self, index: int, event: Any) -> list[Frame]:  # noqa: ARG002
        """Take an event of the answer; return the events that it makes."""
        if not isinstance(event, Piece):
            return []
        frames: list[Frame] = []
        if event.text:
            frames += self._opened()
            frames.append(
                self._frame(
                    "response.output_text.delta",
                    **self._place(),
                    delta=event.text,
                    logprobs=self._logprobs(event.token_ids, event.logprobs),
                )
            )
        if event.result is not None:
            self._result = event.result
            self._output = self._items(event.result)
            frames += self._closing()
        return frames

    def end(self) -> list[Frame]:
        """Return the whole response."""
        response = self.body()
        return [self._frame(f"response.{response['status']}", response=response)]

    def fail(self, error: Exception) -> list[Frame]:
        """Return the error in place of the rest of the stream."""
        message = error_reply(error)[2]["error"]["message"]
        code = "invalid_prompt" if isinstance(error, InputError) else "server_error"
        failed = {**self._response("failed"), "error": {"code": code, "message": message}}
        return [self._frame("response.failed", response=failed)]

    def body(self) -> dict[str, Any]:
        """Return the whole response."""
        assert self._result is not None
        usage = token_usage([self._result])
        is_cut = self._result.finish_reason == "length"
        return {
            **self._response("incomplete" if is_cut else "completed"),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self._output,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {
                    "cache_write_tokens": 0,
                    **usage["prompt_tokens_details"],
                },
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    def _response(self, status: str) -> dict[str, Any]:
        empty = {"error": None, "incomplete_details": None, "output": [], "usage": None}
        return {**self._same, "status": status, **empty}

    def _frame(self, kind: str, **data: Any) -> Frame:
        number, self._number = self._number, self._number + 1
        return Frame({"type": kind, "sequence_number": number, **data}, kind)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": 0, "content_index": 0}

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _opened(self) -> list[Frame]:
        """Begin the message, unless it has begun."""
        if self._is_open:
            return []
        self._is_open = True
        item = self._message("in_progress", [])
        return [
            self._frame("response.output_item.added", output_index=0, item=item),
            self._frame("response.content_part.added", **self._place(), part=_text_part("", [])),
        ]

    def _items(self, result: Result) -> list[dict[str, Any]]:
        """Return the items of an answer: its text, then its calls."""
        status = "incomplete" if result.finish_reason == "length" else "completed"
        items: list[dict[str, Any]] = []
        if result.text or not result.tool_calls:
            logprobs = self._logprobs(result.token_ids, result.logprobs)
            items.append(self._message(status, [_text_part(result.text, logprobs)]))
        for call in result.tool_calls:
            items.append(
                {
                    "id": new_id("fc"),
                    "type": "function_call",
                    "status": "completed",
                    "call_id": new_id("call"),
                    "name": call["name"],
                    "arguments": arguments_text(call),
                }
            )
        return items

    def _closing(self) -> list[Frame]:
        """Return the events that end the message and tell the calls."""
        frames: list[Frame] = []
        for place, item in enumerate(self._output):
            if item["type"] == "message":
                frames += self._opened()
                (part,) = item["content"]
                done = {"text": part["text"], "logprobs": part["logprobs"]}
                frames.append(self._frame("response.output_text.done", **self._place(), **done))
                frames.append(self._frame("response.content_part.done", **self._place(), part=part))
            else:
                begun = {**item, "status": "in_progress", "arguments": ""}
                where = {"item_id": item["id"], "output_index": place}
                arguments = item["arguments"]
                frames += [
                    self._frame("response.output_item.added", output_index=place, item=begun),
                    self._frame("response.function_call_arguments.delta", **where, delta=arguments),
                    self._frame(
                        "response.function_call_arguments.done",
                        **where,
                        name=item["name"],
                        arguments=arguments,
                    ),
                ]
            frames.append(self._frame("response.output_item.done", output_index=place, item=item))
        return frames

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[float] | None
    ) -> list[dict[str, Any]]:
        if self._tokens is None or logprobs is None:
            return []
        return token_logprobs(self._tokens, token_ids, logprobs)


def _text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
