"""Many conversations at a time: one pass over the weights serves a token of each."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import mlx.core as mx

from ..errors import InputError, Lfm2VLError
from ..model.cache import Cache
from ..model.decode_step import decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from ..options import ImageOptions, Sampling
from ..prompt.processor import Processor, Prompt
from ..prompt.template import Message
from .answer import Answer, Result, Timings
from .lookup import Drafts
from .sampling import Sampler
from .stream import (
    CLEAR_EVERY,
    DEFAULT_MAX_TOKENS,
    checked_seed,
    embed_prompt,
    end_token_ids,
    make_result,
    read_prompt,
)

BATCH_SIZE = 8

Conversation = Sequence[Message] | str


@dataclass
class _Row:
    """One conversation on its way through the batch."""

    number: int
    prompt: Prompt
    embeds: mx.array  # (1, L, C); empty once they are read
    answer: Answer
    seed: int
    started: float  # by the clock, as `first`
    preparing: float  # seconds
    first: float = 0.0  # token on the host


def batch_generate(
    model: Lfm2VL,
    processor: Processor,
    conversations: Iterable[Conversation],
    *,
    batch_size: int = BATCH_SIZE,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    options: ImageOptions | None = None,
) -> list[Result]:
    """Answer conversations together, each as `generate` answers it alone.

    See `stream_batch` for the arguments.

    Returns:
        The results, in the order of the conversations.

    Raises:
        InputError, NetworkError: of the first conversation that cannot be answered.
    """
    results: dict[int, Result] = {}
    for number, result in stream_batch(
        model,
        processor,
        conversations,
        batch_size=batch_size,
        max_tokens=max_tokens,
        sampling=sampling,
        seed=seed,
        stop=stop,
        options=options,
    ):
        if isinstance(result, Lfm2VLError):
            raise result
        results[number] = result
    return [results[number] for number in sorted(results)]


def stream_batch(
    model: Lfm2VL,
    processor: Processor,
    conversations: Iterable[Conversation],
    *,
    batch_size: int = BATCH_SIZE,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    options: ImageOptions | None = None,
) -> Iterator[tuple[int, Result | Lfm2VLError]]:
    """Answer conversations together; yields each answer when it is complete.

    A finished row makes room for the next conversation at once. Conversations may have different
    images and lengths; those that begin together and are equally long are read in one pass. No row
    sees another: but for the rounding of larger products its tokens are those it gets alone.

    Args:
        model: from `load`.
        processor: from `load`.
        conversations: messages as for `stream_generate`; read when there is room, so that there
            may be any number of them.
        batch_size: how many are under way at a time.
        max_tokens: of each answer, at most.
        sampling: as for `stream_generate`.
        seed: of every row, as if it were alone; None picks one for each.
        stop: as for `stream_generate`.
        options: as for `stream_generate`.

    Yields:
        The number of a conversation, from 0, and its result; or the error, if it cannot be
        answered: the others go on.

    Raises:
        InputError: settings that fit no conversation.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    sampling = sampling or model.config.sampling
    checked_seed(seed)
    end_ids = end_token_ids(model, processor)
    Answer(processor.tokenizer, end_ids, stop, max_tokens)  # refuses what makes no sense

    def prepare(number: int, messages: Conversation) -> _Row:
        started = time.perf_counter()
        prompt = read_prompt(model, processor, messages, max_tokens, options)
        read = time.perf_counter()
        embeds, decoding = embed_prompt(model, prompt)
        mx.async_eval(embeds)
        return _Row(
            number,
            prompt,
            embeds,
            Answer(processor.tokenizer, end_ids, stop, max_tokens),
            checked_seed(seed),
            started,
            read - started + decoding,
        )

    batch = _Batch(model, sampling)
    waiting = enumerate(conversations)
    mx.reset_peak_memory()
    while True:
        arrived: list[_Row] = []
        while batch.under_way + len(arrived) < batch_size and (item := next(waiting, None)):
            try:
                arrived.append(prepare(*item))
            except Lfm2VLError as error:
                yield item[0], error
        batch.take(arrived)
        if not batch.rows:
            return
        for row in batch.step():
            now = time.perf_counter()
            timings = Timings(
                row.preparing, row.first - row.started - row.preparing, now - row.first
            )
            yield (
                row.number,
                make_result(row.answer, row.prompt, sampling, row.seed, timings, Drafts()),
            )


class _Batch:
    """Rows under way, and what the model remembers of them.

    Attributes:
        rows: in the order of the cache's rows; finished ones until the next `take`.
    """

    def __init__(self, model: Lfm2VL, sampling: Sampling) -> None:
        self._model = model
        self._decode = decode_step(model)
        self._sampler = Sampler(sampling, [], [])
        self._cache = model.make_cache()
        self._tokens = mx.array([])  # one per row: queued, not read yet, not in the cache
        self._steps = 0
        self.rows: list[_Row] = []

    @property
    def under_way(self) -> int:
        return sum(not row.answer.finish_reason for row in self.rows)

    def take(self, arrived: Sequence[_Row]) -> None:
        """Read the prompts of new rows, and let finished rows go."""
        kept = [i for i, row in enumerate(self.rows) if not row.answer.finish_reason]
        if len(kept) == len(self.rows) and not arrived:
            return
        parts, samplers, tokens = [], [], []
        if kept:
            parts.append((self._cache, kept))
            samplers.append((self._sampler, kept))
            tokens.append(self._tokens[mx.array(kept)])
        self.rows = [self.rows[i] for i in kept]
        for group in _equally_long(arrived):
            prompts = [row.prompt.input_ids for row in group]
            sampler = Sampler(self._sampler.sampling, prompts, [row.seed for row in group])
            cache = self._model.make_cache()
            embeds = mx.concatenate([row.embeds for row in group])
            tokens.append(sampler(prefill(self._model, embeds, cache)))
            mx.async_eval(tokens[-1], cache.arrays)
            parts.append((cache, range(len(group))))
            samplers.append((sampler, range(len(group))))
            self.rows += group
        for row in arrived:
            row.embeds = mx.array([])
        if self.rows:
            self._cache, self._sampler = Cache.joined(parts), Sampler.joined(samplers)
            self._tokens = mx.concatenate(tokens)

    def step(self) -> list[_Row]:
        """Read a token of every row, with the next ones queued; returns the rows it finishes."""
        queued = self._sampler(self._decode(self._tokens, self._cache))
        mx.async_eval(queued, self._cache.arrays)
        values = cast(list[int], self._tokens.tolist())
        self._tokens = queued
        for row, value in zip(self.rows, values, strict=True):
            row.first = row.first or time.perf_counter()
            row.answer.add(value)
        self._steps += 1
        if self._steps % CLEAR_EVERY == 0:
            mx.clear_cache()
        return [row for row in self.rows if row.answer.finish_reason]


def _equally_long(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Groups of rows whose prompts have as many tokens."""

    def length(row: _Row) -> int:
        return len(row.prompt.input_ids)

    for _, group in groupby(sorted(rows, key=length), key=length):
        yield list(group)
