"""Answering conversations of equal options as a batch, and giving each answer when it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import mlx.core as mx

from ..device_thread import Signal, Steps
from ..errors import InputError, Lfm2VLError
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions
from ..prompt.processor import Processor
from .answer import Clock
from .arrival import groups_of, make_answer, reading_prompts
from .asking import Conversation
from .batch import DRAFTED, Batch
from .prefix_store import PrefixStore
from .prepare import embed_prompt, finished
from .result import Result
from .row import Row, ask

if TYPE_CHECKING:  # imported where there is a drafter
    from .drafting import Drafting


def stream_answers(
    model: Lfm2VL,
    processor: Processor,
    options: AnswerOptions,
    batch_size: int,
    store: PrefixStore | None = None,
    keys: Sequence[bytes] = (),
    drafting: Drafting | None = None,
) -> Steps[tuple[int, Result | Lfm2VLError]]:
    """Answer conversations, which the generator is sent, as a batch; see `Engine.stream_batch`.

    If it is sent None, there is none at the moment, and it goes on with those under way. `keys` are
    those of the images of each conversation, if all have the same ones. `drafting` is the engine's
    draft model.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    if options.draft_tokens is None and batch_size > DRAFTED:
        drafting = None
    batch = Batch(model, options.kv_bits, most_drafted=batch_size)
    numbers, is_more = count(), True
    mx.reset_peak_memory()
    while True:
        arrived: list[Row] = []
        under_way = sum(not row.is_over for row in batch.rows)
        while is_more and under_way + len(arrived) < batch_size:
            conversation = yield Signal.WANTED
            if conversation is Signal.END:
                is_more = False
                continue
            if conversation is None:
                break
            number = next(numbers)
            try:
                arrived.append(
                    _prepare(model, processor, number, conversation, options, store, keys)
                )
            except Lfm2VLError as error:
                yield number, error
        batch.join(
            finished(reading_prompts(model, group, store, drafting, options.on_prefill))
            for group in groups_of(arrived, store)
        )
        if not (batch.rows or is_more):
            return
        if not batch.rows:
            continue
        batch.step()
        for row in batch.rows:
            if row.is_over:
                yield row.number, row.error or row.result()


def _prepare(
    model: Lfm2VL,
    processor: Processor,
    number: int,
    messages: Conversation,
    options: AnswerOptions,
    store: PrefixStore | None,
    keys: Sequence[bytes],
) -> Row:
    asked = ask(model, processor, messages, options)
    clock = Clock()
    ready = embed_prompt(model, asked.prompt, store, options.on_encode, keys, options.kv_bits)
    mx.async_eval(ready.embeds)
    guide = None
    if options.constraint:  # while the device encodes the images
        from .guide import make_guide

        guide = make_guide(model, processor, asked.options, asked.prompt.start)
    return Row(number, asked, ready, make_answer(model, processor, asked), clock, guide)
