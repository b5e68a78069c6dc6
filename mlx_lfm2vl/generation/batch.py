"""Answering conversations as a batch: each pass over the weights gives one token of each answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from typing import TYPE_CHECKING, Protocol, cast

import mlx.core as mx
import numpy as np

from ..device_thread import Signal, Steps
from ..errors import InputError, Lfm2VLError
from ..model.cache import Cache, Rows
from ..model.decode_step import TapReader, decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions, Sampling
from ..prompt.messages import Message
from ..prompt.processor import Inputs, Processor
from .answer import Answer, Clock, make_result
from .loop import CLEAR_EVERY, Drafts, Token
from .prefix_store import PrefixStore
from .prepare import Ready, embed_prompt, read_prompt
from .result import Result, Timings
from .sampling import Drawn, Sampler, logprobs_of

if TYPE_CHECKING:  # imported where there is a drafter or a constraint
    from .drafting import Drafting
    from .guide import Guide

BATCH_SIZE = 8
DRAFTED = 3  # rows of the largest batch that drafts unless asked to: in larger ones less is gained

Conversation = Sequence[Message] | str


@dataclass
class Row:
    """One conversation in the batch."""

    number: int  # of the conversation, from 0
    prompt: Inputs
    ready: Ready
    answer: Answer
    seed: int
    clock: Clock
    preparing: float  # seconds, without decoding images
    guide: "Guide | None" = None  # of the constraint
    first: float = 0.0  # seconds from `preparing` to the first token, with decoding images
    drafts: Drafts = field(default_factory=Drafts)

    def add(self, token: Token) -> None:
        """Add a token to the answer."""
        self.first = self.first or self.clock.lap()
        self.answer.add(*token)

    def result(self, sampling: Sampling) -> Result:
        """Return the result of a finished row; it reads the clock, so call it once."""
        decoding = self.ready.decoding
        timings = Timings(self.preparing + decoding, self.first - decoding, self.clock.lap())
        return make_result(
            self.answer,
            self.prompt,
            sampling,
            self.seed,
            timings,
            self.drafts,
            self.ready.cached,
        )


class Decoder(Protocol):
    """A batch under way: `Batch`, or `DraftedBatch`, which gives the same tokens."""

    @property
    def rows(self) -> list[Row]:
        """The conversations; finished ones stay until the next `take`."""
        ...

    def take(self, arrived: Sequence[Row], /) -> None:
        """Add new rows, whose prompts it reads, and drop finished ones."""
        ...

    def step(self) -> list[Row]:
        """Decode at least one pass further; return the rows that this finishes."""
        ...


def stream_answers(
    model: Lfm2VL,
    processor: Processor,
    options: AnswerOptions,
    batch_size: int,
    store: PrefixStore | None = None,
    keys: Sequence[bytes] = (),
    drafting: "Drafting | None" = None,
) -> Steps[tuple[int, Result | Lfm2VLError]]:
    """Answer conversations, which the generator is sent, as a batch; see `Engine.stream_batch`.

    If it is sent None, there is none at the moment, and it goes on with those under way. `keys` are
    those of the images of each conversation, if all have the same ones. `drafting` is the engine's
    draft model.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    if options.lookup and options.constraint:
        raise InputError("lookup does not work in a batch with a constraint; drop one of them")
    batch = _make_batch(model, processor, options, batch_size, store, drafting)
    sampling = options.sampling_over(model.config.sampling)
    numbers, is_more = count(), True
    mx.reset_peak_memory()
    while True:
        arrived: list[Row] = []
        while is_more and _under_way(batch.rows) + len(arrived) < batch_size:
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
        batch.take(arrived)
        if not (batch.rows or is_more):
            return
        if not batch.rows:
            continue
        for row in batch.step():
            yield row.number, row.result(sampling)


def _under_way(rows: Sequence[Row]) -> int:
    return sum(not row.answer.finish_reason for row in rows)


def _make_batch(
    model: Lfm2VL,
    processor: Processor,
    options: AnswerOptions,
    batch_size: int,
    store: PrefixStore | None,
    drafting: "Drafting | None",
) -> Decoder:
    if options.draft_tokens == 0 or (options.draft_tokens is None and batch_size > DRAFTED):
        drafting = None
    if options.constraint or not (drafting or options.lookup):
        return Batch(model, processor, options, store)
    from .drafted_batch import DraftedBatch

    return DraftedBatch(model, options, store, drafting)


def _prepare(
    model: Lfm2VL,
    processor: Processor,
    number: int,
    messages: Conversation,
    options: AnswerOptions,
    store: PrefixStore | None,
    keys: Sequence[bytes],
) -> Row:
    clock = Clock()
    prompt = read_prompt(model, processor, messages, options)
    preparing = clock.lap()
    ready = embed_prompt(model, prompt, store, options.on_encode, keys, options.kv_bits)
    mx.async_eval(ready.embeds)
    answer = Answer(processor.tokenizer, model.config.eos_token_ids, options, prompt.start)
    seed = options.drawn_seed()
    return Row(number, prompt, ready, answer, seed, clock, preparing)


class Batch:
    """The conversations being answered, with their cache and sampler.

    Attributes:
        rows: in the order of the cache's rows; finished ones stay until the next `take`.
    """

    def __init__(
        self,
        model: Lfm2VL,
        processor: Processor,
        options: AnswerOptions,
        store: PrefixStore | None,
    ) -> None:
        self._model, self._options, self._store = model, options, store
        self._processor = processor
        self._sampling = options.sampling_over(model.config.sampling)
        self._decode = decode_step(model)
        self._sampler = self._make_sampler([])
        self._cache = model.make_cache(options.kv_bits)
        # One token per row that is queued on the device, not read by the host, not in the cache.
        self._queued = Drawn(mx.array([]), None)
        self._drawn_from = mx.array([])  # logits of these tokens, kept only for a constraint
        self._steps = 0
        self.rows: list[Row] = []

    def take(self, arrived: Sequence[Row]) -> None:
        """Add new rows, whose prompts it reads, and drop finished ones."""
        kept = [i for i, row in enumerate(self.rows) if not row.answer.finish_reason]
        if len(kept) == len(self.rows) and not arrived:
            return
        parts: list[Rows] = []
        samplers: list[tuple[Sampler, Sequence[int]]] = []
        queued: list[Drawn] = []
        drawn_from: list[mx.array] = []
        if kept:
            parts.append(Rows(self._cache, kept))
            samplers.append((self._sampler, kept))
            queued.append(self._queued.rows(mx.array(kept)))
            drawn_from += [self._drawn_from[mx.array(kept)]] if self._options.constraint else []
        self.rows = [self.rows[i] for i in kept]
        for group in groups_of(arrived, self._store):
            sampler = self._make_sampler(group)
            logits, cache = read_prompts(self._model, group, self._options, self._store)
            queued.append(sampler(logits, self._guided(group, logits)))
            drawn_from += [logits] if self._options.constraint else []
            mx.async_eval(queued[-1], cache.arrays)
            parts.append(Rows(cache, range(len(group))))
            samplers.append((sampler, range(len(group))))
            self.rows += group
        if self.rows:
            self._cache, self._sampler = Cache.joined(parts), Sampler.joined(samplers)
            self._queued = Drawn.joined(queued)
            self._drawn_from = mx.concatenate(drawn_from) if drawn_from else self._drawn_from

    def step(self) -> list[Row]:
        """Queue the next token of every row, then read the last; return the rows it finishes."""
        drawn = self._queued
        if self._options.constraint:
            tokens = self._step_guided(drawn)
        else:
            self._queued = self._sampler(self._decode(drawn.tokens, self._cache))
            mx.async_eval(self._queued, self._cache.arrays)
            tokens = [Token(*found) for found in drawn.read()]
        for row, token in zip(self.rows, tokens, strict=True):
            row.add(token)
        self._steps += 1
        if self._steps % CLEAR_EVERY == 0:
            mx.clear_cache()
        return [row for row in self.rows if row.answer.finish_reason]

    def _step_guided(self, drawn: Drawn) -> list[Token]:
        """Queue the next token of every row inside its constraint; return the last ones."""
        begin, windows = self._cache.offset, self._cache.windows
        logits = self._decode(drawn.tokens, self._cache)
        mx.async_eval(logits, self._cache.arrays)
        read = drawn.read()
        guides = [row.guide for row in self.rows if row.guide]
        taken = [guide.take(token) for guide, (token, _) in zip(guides, read, strict=True)]
        logprobs = [logprob for _, logprob in read]
        if taken != [token for token, _ in read]:  # once in an answer at most, where a row closes
            self._cache.back(begin, windows)
            tokens = mx.array(taken, mx.uint32)
            logits = self._decode(tokens, self._cache)
            if self._options.logprobs:
                logprobs = cast(list[float], logprobs_of(self._drawn_from, tokens).tolist())
        self._queued = self._sampler(logits, np.stack([guide.mask() for guide in guides]))
        self._drawn_from = logits
        mx.async_eval(self._queued, self._cache.arrays)
        rows = zip(taken, logprobs, guides, strict=True)
        return [Token(token, logprob, guide.ended) for token, logprob, guide in rows]

    def _guided(self, rows: Sequence[Row], logits: mx.array) -> np.ndarray | None:
        """Make the guides of new rows while the device reads their prompts; return the masks."""
        if not self._options.constraint:
            return None
        from .guide import make_guide

        mx.async_eval(logits)
        for row in rows:
            row.guide = make_guide(self._model, self._processor, self._options, row.prompt.start)
        return np.stack([row.guide.mask() for row in rows if row.guide])

    def _make_sampler(self, rows: Sequence[Row]) -> Sampler:
        return Sampler(
            self._sampling,
            [row.prompt.input_ids for row in rows],
            [row.seed for row in rows],
            processors=self._options.logits_processors,
            logprobs=self._options.logprobs,
        )


def groups_of(rows: Sequence[Row], store: PrefixStore | None) -> list[list[Row]]:
    """Return the rows whose prompts are read together: those of equal length."""
    if store:  # what is kept is read as a prompt alone is, so that all answers can continue it
        return [[row] for row in rows]

    def length(row: Row) -> int:
        return len(row.prompt.input_ids)

    return [list(group) for _, group in groupby(sorted(rows, key=length), key=length)]


def read_prompts(
    model: Lfm2VL,
    rows: Sequence[Row],
    options: AnswerOptions,
    store: PrefixStore | None,
    reader: TapReader | None = None,
) -> tuple[mx.array, Cache]:
    """Read the prompts of some rows.

    Args:
        model: the network.
        rows: of equally long prompts; what is cached of one alone is not read again.
        options: of the answers.
        store: where what is read is kept.
        reader: see `prefill`.

    Returns:
        (B, vocab_size) logits of the first tokens, and the cache, which the caller must not change.
    """
    cache, ends, reached = model.make_cache(options.kv_bits), (), None
    if len(rows) == 1:  # reads as `stream_answer` does
        ready = rows[0].ready
        cache, ends, reached = ready.branch.cache, ready.ends, ready.reached
    embeds = mx.concatenate([row.ready.taken() for row in rows])
    logits = prefill(model, embeds, cache, options.on_prefill, ends, reached, reader)
    if store and reached:
        store.keep(rows[0].ready.read([]))
    return logits, cache
