"""Answers of a model that is asked once: the methods of `Engine` as functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from ..errors import Lfm2VLError
from ..images.source import ImageSources
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerChanges, Options, merged
from ..prompt.messages import Message
from ..prompt.processor import Processor
from .asking import BATCH_SIZE, Conversation
from .engine import Engine
from .result import Piece, Result


def generate(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: Options = None,
    *,
    image: ImageSources | None = None,
    **changes: Unpack[AnswerChanges],
) -> Result:
    """Answer a conversation, or a question about images.

    See `Engine.stream` for the arguments and errors.

    >>> generate(model, processor, "What is this?", image="photo.jpg", max_tokens=100)
    """
    return Engine(model, processor).generate(messages, options, image=image, **changes)


def stream_generate(
    model: Lfm2VL,
    processor: Processor,
    messages: Sequence[Message] | str,
    options: Options = None,
    *,
    image: ImageSources | None = None,
    **changes: Unpack[AnswerChanges],
) -> Iterator[Piece]:
    """Answer a conversation piece by piece.

    See `Engine.stream` for the arguments, what it yields and errors.
    """
    return Engine(model, processor).stream(messages, options, image=image, **changes)


def batch_generate(
    model: Lfm2VL,
    processor: Processor,
    conversations: Iterable[Conversation | None],
    options: Options = None,
    *,
    batch_size: int = BATCH_SIZE,
    **changes: Unpack[AnswerChanges],
) -> list[Result]:
    """Answer conversations as a batch and return all results.

    See `Engine.stream_batch` for the arguments.

    Returns:
        The results in the order of the conversations.

    Raises:
        InputError: an option is out of range, or a conversation cannot be answered.
        NetworkError: an image URL cannot be fetched.
        TypeError: a keyword is not a field of `AnswerOptions`.
    """
    chosen = merged(options, changes)
    return Engine(model, processor).answered(conversations, chosen, batch_size=batch_size)


def stream_batch(
    model: Lfm2VL,
    processor: Processor,
    conversations: Iterable[Conversation | None],
    options: Options = None,
    *,
    batch_size: int = BATCH_SIZE,
    **changes: Unpack[AnswerChanges],
) -> Iterator[tuple[int, Result | Lfm2VLError]]:
    """Answer conversations as a batch and yield each answer when it is complete.

    See `Engine.stream_batch` for the arguments, what it yields and errors.
    """
    engine = Engine(model, processor)
    return engine.stream_batch(conversations, options, batch_size=batch_size, **changes)
