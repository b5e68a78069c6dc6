"""Answers to the prompts of `llm`: text as it comes, then calls of tools and token counts.

One engine is kept in the process. A conversation therefore reads only what is new in it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from llm import AsyncResponse, ModelError, Prompt, Response, ToolCall
from llm.parts import StreamEvent

from ..checkpoint.aliases import DEMO
from ..checkpoint.cached_names import cached_folder
from ..checkpoint.find import DEMO_FOLDER
from ..errors import CheckpointError, Lfm2VLError
from ..prompt.template import find_template
from .llm_prompts import read_messages, read_options
from .served import served_model

if TYPE_CHECKING:
    from ..generation.engine import Engine
    from ..generation.result import Piece, Result
    from ..options import AnswerOptions
    from ..prompt.messages import Message

TOLD = ("finish_reason", "sampling", "images", "timings", "drafts")  # that llm keeps in its log


def knows_tools(checkpoint: str) -> bool:
    """Whether the chat template of a checkpoint on this machine knows tools.

    Args:
        checkpoint: a repo id, or "demo".
    """
    folder = DEMO_FOLDER if checkpoint == DEMO else cached_folder(checkpoint)
    try:
        return folder is not None and bool(re.search(r"\btools\b", find_template(folder)))
    except CheckpointError:
        return False


def answer(checkpoint: str, prompt: Prompt, response: Response) -> Iterator[str | StreamEvent]:
    """Yield the answer to a prompt.

    Raises:
        ModelError: it cannot be answered.
    """
    try:
        engine, messages, options = _asked(checkpoint, prompt)
        for piece in engine.stream(messages, options):
            yield from _events(piece, response)
    except Lfm2VLError as error:
        raise ModelError(str(error)) from None


async def answer_async(
    checkpoint: str, prompt: Prompt, response: AsyncResponse
) -> AsyncGenerator[str | StreamEvent, None]:
    """Do what `answer` does, while the event loop goes on.

    Raises:
        ModelError: it cannot be answered.
    """
    try:
        engine, messages, options = await asyncio.to_thread(_asked, checkpoint, prompt)
        async with aclosing(engine.astream(messages, options)) as pieces:
            async for piece in pieces:
                for event in _events(piece, response):
                    yield event
    except Lfm2VLError as error:
        raise ModelError(str(error)) from None


class _Kept:
    """The engine that was used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[str, str | None] | None = None
        self._engine: Engine | None = None

    def open(self, checkpoint: str, draft_model: str | None) -> Engine:
        """Return the engine of a checkpoint; another one is given up before."""
        with self._lock:
            key = checkpoint, draft_model
            if self._engine is None or self._key != key:
                self._engine = None
                self._engine = served_model(checkpoint, draft_model=draft_model).open()
                self._key = key
            return self._engine


KEPT = _Kept()


def _asked(checkpoint: str, prompt: Prompt) -> tuple[Engine, list[Message], AnswerOptions]:
    """Return what answers a prompt, and the question; bad options are found before it is loaded."""
    options = read_options(prompt)
    engine = KEPT.open(checkpoint, cast(Any, prompt.options).draft_model)
    processor = engine.processor
    return engine, read_messages(prompt, processor.image_config, processor.limits), options


def _events(piece: Piece, response: Any) -> Iterator[str | StreamEvent]:
    if piece.text:
        yield piece.text
    if piece.result is not None:
        _tell(piece.result, response)
        for call in piece.result.tool_calls:
            yield from _call(call, response)


def _call(call: dict[str, Any], response: Any) -> Iterator[StreamEvent]:
    number = f"call_{secrets.token_hex(8)}"
    name, arguments = call["name"], call["arguments"]
    response.add_tool_call(ToolCall(name, arguments, number))
    yield StreamEvent("tool_call_name", name, tool_call_id=number)
    yield StreamEvent("tool_call_args", json.dumps(arguments), tool_call_id=number)


def _tell(result: Result, response: Any) -> None:
    """Give llm the token counts, and what it keeps in its log."""
    details = {"cached_tokens": result.cached_tokens, "image_tokens": result.image_tokens}
    response.set_usage(
        input=result.prompt_tokens,
        output=len(result.token_ids),
        details={name: count for name, count in details.items() if count} or None,
    )
    values = result.to_dict()
    response.response_json = {name: values[name] for name in TOLD}
