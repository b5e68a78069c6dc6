"""Reading prompts until their rows can join a batch, step by step or at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import mlx.core as mx

from ..model.cache import Cache
from ..model.decode_step import Passes, prefill_passes
from ..model.lfm2vl import Lfm2VL
from ..prompt.processor import Processor
from .answer import Answer, Clock
from .prefix_store import PrefixStore
from .prepare import Stage, embedding
from .row import Asked, Row
from .sampling import Sampler

if TYPE_CHECKING:  # imported where there is a drafter or a constraint
    from .drafted import Drafter
    from .drafting import Drafting
    from .guide import Guide


@dataclass(frozen=True)
class Arrival:
    """Rows whose prompts were read together.

    Attributes:
        rows: of equal options, with their samplers.
        logits: (B, vocab_size) of their first tokens.
        cache: what was read, which nobody may change.
    """

    rows: list[Row]
    logits: mx.array
    cache: Cache


def arriving(
    model: Lfm2VL,
    processor: Processor,
    number: int,
    asked: Asked,
    guide: Guide | None,
    store: PrefixStore,
    drafting: Drafting | None,
) -> Generator[Stage, None, Arrival]:
    """Read the prompt of one row; yield whenever a part of it is queued on the device.

    Args:
        model: the network.
        processor: of the same checkpoint.
        number: of the row.
        asked: the conversation.
        guide: of its constraint.
        store: what was read before; what this reads is added.
        drafting: the draft model; None drafts by lookup only.
    """
    clock, kv_bits = Clock(), asked.options.kv_bits
    ready = yield from embedding(model, asked.prompt, store, None, asked.keys, kv_bits)
    answer = make_answer(model, processor, asked)
    row = Row(number, asked, ready, answer, clock, guide)
    return (yield from reading_prompts(model, [row], store, drafting))


def make_answer(model: Lfm2VL, processor: Processor, asked: Asked) -> Answer:
    """Return the answer of a conversation, still empty."""
    ends = model.config.eos_token_ids
    return Answer(processor.tokenizer, ends, asked.options, asked.prompt.start)


def groups_of(rows: Sequence[Row], store: PrefixStore | None) -> list[list[Row]]:
    """Return the rows whose prompts are read together: those of equal length."""
    if store:  # what is kept is read as a prompt alone is, so that all answers can continue it
        return [[row] for row in rows]

    def length(row: Row) -> int:
        return len(row.asked.prompt.input_ids)

    return [list(group) for _, group in groupby(sorted(rows, key=length), key=length)]


def reading_prompts(
    model: Lfm2VL,
    rows: list[Row],
    store: PrefixStore | None,
    drafting: Drafting | None,
    report: Callable[[int, int], object] | None = None,
) -> Generator[Stage, None, Arrival]:
    """Read the prompts of some rows and give them samplers and drafters.

    Args:
        model: the network.
        rows: of equal options and equally long prompts; what is cached of one alone is not read
            again.
        store: where what is read is kept.
        drafting: the draft model; None drafts by lookup only.
        report: see `Passes`.
    """
    options = rows[0].options
    is_drafted = options.lookup > 0 or (drafting is not None and options.draft_tokens != 0)
    if is_drafted:
        readers = _with_drafters(model, rows, drafting)
        reader = readers if readers.taps else None
    else:
        reader, sampler = None, _sampler(Sampler, rows)
        for place, row in enumerate(rows):
            row.sampler, row.place = sampler, place
    if len(rows) == 1:  # reads as `stream_answer` does
        cache, passes = rows[0].ready.branch.cache, rows[0].ready.passes(report)
    else:
        cache, passes = model.make_cache(options.kv_bits), Passes(report)
    before, whole = cache.offset, len(rows[0].asked.prompt.input_ids)
    embeds = mx.concatenate([row.ready.taken() for row in rows])
    logits = None
    for done, found in prefill_passes(model, embeds, cache, passes, reader):
        logits = found
        yield Stage("prefill", before + done, whole)
    assert logits is not None
    if store and len(rows) == 1:
        store.keep(rows[0].ready.read([]))
    if store and is_drafted:
        for row in rows:
            row.drafter_context()  # the store's, which a drafter must not write to
    return Arrival(rows, logits, cache)


def _sampler(kind: type[Sampler], rows: Sequence[Row]) -> Sampler:
    options = rows[0].options
    return kind(
        rows[0].asked.sampling,
        [row.asked.prompt.input_ids for row in rows],
        [row.asked.seed for row in rows],
        processors=options.logits_processors,
        logprobs=options.logprobs,
    )


class _Readers:
    """Gives every drafter the tapped outputs of its row; see `decode_step.TapReader`."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self._drafters, self.taps = drafters, drafters[0].taps

    def read(self, outputs: Sequence[mx.array]) -> None:
        """Take (B, L, C) of each tapped layer."""
        for number, drafter in enumerate(self._drafters):
            drafter.read([output[number : number + 1] for output in outputs])


def _with_drafters(model: Lfm2VL, rows: Sequence[Row], drafting: Drafting | None) -> _Readers:
    """Give each row a sampler and a drafter of its own."""
    from .drafting import make_drafter
    from .verifying import VerifyingSampler

    drafters: list[Drafter] = []
    for row in rows:
        options = row.options
        if drafting is not None and options.draft_tokens is None:
            # The batch chooses the length of drafts: its rounds take other times than those of a
            # single answer, which `drafting` knows.
            options = replace(options, draft_tokens=drafting.model.config.block_size)
        sampler = _sampler(VerifyingSampler, [row])
        assert isinstance(sampler, VerifyingSampler)
        row.sampler, row.drafter = (
            sampler,
            make_drafter(drafting, model, sampler, row.ready, options),
        )
        drafters.append(row.drafter)
    return _Readers(drafters)
