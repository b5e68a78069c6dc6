"""Answers to the prompts of `llm`: text as it comes, then calls of tools and token counts.

One engine is kept in the process. A conversation therefore reads only what is new in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm import AsyncResponse, ModelError, Prompt, Response, ToolCall
from llm.parts import StreamEvent

from ...checkpoint.aliases import DEMO
from ...checkpoint.cached_names import cached_folder
from ...checkpoint.find import DEMO_FOLDER, find_checkpoint
from ...errors import CheckpointError, Lfm2VLError
from ...prompt.template import find_template
from .prompts import read_messages, read_options

if TYPE_CHECKING:
    from ...generation.engine import Engine
    from ...generation.result import Piece, Result
    from ...options import AnswerOptions
    from ...prompt.messages import Message
    from ..resident.client import RemoteEngine

RESIDENT = "MLX_LFM2VL_RESIDENT"  # set to 1, it stands for the option `resident`
TOLD = ("finish_reason", "sampling", "images", "timings", "drafts")  # that llm keeps in its log


def knows_tools(checkpoint: str) -> bool:
    """Whether the chat template of a checkpoint on this machine knows tools.

    Args:
        checkpoint: a repo id, a folder, or "demo".
    """
    if checkpoint == DEMO:
        folder = DEMO_FOLDER
    else:
        named = Path(checkpoint).expanduser()
        folder = named if named.is_dir() else cached_folder(checkpoint)
    try:
        return folder is not None and bool(re.search(r"\btools\b", find_template(folder)))
    except CheckpointError:
        return False


def answer(
    checkpoint: str, prompt: Prompt, response: Response | AsyncResponse
) -> Generator[str | StreamEvent, None, None]:
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
    """Do what `answer` does in a thread, while the event loop goes on.

    Raises:
        ModelError: it cannot be answered.
    """
    events, loop = answer(checkpoint, prompt, response), asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1, "mlx_lfm2vl llm")
    try:
        while (event := await loop.run_in_executor(thread, next, events, None)) is not None:
            yield event
    finally:  # where a reader has left, this comes after the token under way
        thread.submit(events.close)
        thread.shutdown(wait=False)


class _Kept:
    """The engine that was used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[str, str | None, bool] | None = None
        self._engine: Engine | RemoteEngine | None = None

    def open(
        self, checkpoint: str, draft_model: str | None, *, resident: bool
    ) -> Engine | RemoteEngine:
        """Return an engine; another one is given up before.

        Args:
            checkpoint: a repo id, a folder, or "demo".
            draft_model: see `load_drafter`.
            resident: whether the model is in a process that stays, which is started if need be.
        """
        with self._lock:
            key = checkpoint, draft_model, resident
            if self._engine is None or self._key != key:
                self._engine = None
                make = _remote if resident else _in_place
                self._engine, self._key = make(checkpoint, draft_model), key
            return self._engine


KEPT = _Kept()


def _in_place(checkpoint: str, draft_model: str | None) -> Engine:
    from ..served import served_model

    return served_model(checkpoint, draft_model=draft_model).open()


def _remote(checkpoint: str, draft_model: str | None) -> RemoteEngine:
    from ..resident.client import RemoteEngine
    from ..resident.place import Wanted, absolute_name

    drafter = None if draft_model is None else absolute_name(draft_model)
    wanted = Wanted(absolute_name(checkpoint), draft_model=drafter)
    return RemoteEngine(wanted, prepare=lambda: find_checkpoint(checkpoint))


def _asked(
    checkpoint: str, prompt: Prompt
) -> tuple[Engine | RemoteEngine, list[Message], AnswerOptions]:
    """Return what answers a prompt, and the question; bad options are found before it is loaded."""
    options, given = read_options(prompt), cast(Any, prompt.options)
    resident = _is_set(RESIDENT) if given.resident is None else given.resident
    engine = KEPT.open(checkpoint, given.draft_model, resident=resident)
    processor = engine.processor
    return engine, read_messages(prompt, processor.image_config, processor.limits), options


def _events(piece: Piece, response: Response | AsyncResponse) -> Iterator[str | StreamEvent]:
    if piece.text:
        yield piece.text
    if piece.result is not None:
        _tell(piece.result, response)
        for call in piece.result.tool_calls:
            yield from _call(call, response)


def _call(call: dict[str, Any], response: Response | AsyncResponse) -> Iterator[StreamEvent]:
    number = f"call_{secrets.token_hex(8)}"
    name, arguments = call["name"], call["arguments"]
    response.add_tool_call(ToolCall(name, arguments, number))
    yield StreamEvent("tool_call_name", name, tool_call_id=number)
    yield StreamEvent("tool_call_args", json.dumps(arguments), tool_call_id=number)


def _tell(result: Result, response: Response | AsyncResponse) -> None:
    """Give llm the token counts, and what it keeps in its log."""
    details = {"cached_tokens": result.cached_tokens, "image_tokens": result.image_tokens}
    response.set_usage(
        input=result.prompt_tokens,
        output=len(result.token_ids),
        details={name: count for name, count in details.items() if count} or None,
    )
    values = result.to_dict()
    response.response_json = {name: values[name] for name in TOLD}


def _is_set(variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, "0") not in ("", "0")
