"""The loop that decodes one answer inside a constraint.

It gives the tokens that `generate_step` would draw if only allowed ones existed, but tokens that
come without choice are read together in one step.
"""

from collections.abc import Callable, Iterator
from typing import cast

import mlx.core as mx

from ..model.cache import Cache
from ..model.decode_step import UNCUT, Passes, decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from .guide import Guide
from .loop import CLEAR_EVERY, Token
from .sampling import Sampler, logprobs_of


def constrained_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    sampler: Sampler,
    make_guide: Callable[[], Guide],
    passes: Passes = UNCUT,
) -> Iterator[Token]:
    """Yield the tokens of an answer until its guide says that it has ended.

    The host computes masks while the device works: the guide is made during the prefill, and within
    a string the next step is queued before the last token is read. Elsewhere the host reads the
    token first, because others may follow it without choice.

    Args:
        model: the network.
        inputs_embeds: (1, L, C) embedded prompt.
        cache: of what came before the prompt; updated in place.
        sampler: of one row.
        make_guide: makes the answer's guide.
        passes: how the prompt is read.
    """
    logits = prefill(model, inputs_embeds, cache, passes)
    mx.async_eval(logits, *cache.arrays)
    del inputs_embeds
    guide, step, cleared = make_guide(), decode_step(model), cache.offset
    # What is drawn must be known one by one for log-probabilities and logits processors.
    together = not (sampler.logprobs or sampler.processors)
    unread: list[int] = []  # the last tokens, if the cache has not read them
    while True:
        forced = guide.forced() if together else []
        sampler.skip(forced)
        unread += forced
        if unread and not guide.ended:
            logits = _read(model, unread, cache)
            mx.async_eval(logits, *cache.arrays)
            unread = []
        for place, token in enumerate(forced, 1):
            yield Token(token, None, guide.ended if place == len(forced) else None)
        if guide.ended:
            return
        drawn = sampler(logits, guide.mask()[None])
        mx.async_eval(drawn)
        before, begin, windows, is_ahead = logits, cache.offset, cache.windows, guide.is_open
        if is_ahead:
            logits = step(drawn.tokens, cache)
            mx.async_eval(logits, *cache.arrays)
        ((token, logprob),) = drawn.read()
        taken = guide.take(token)
        if is_ahead and taken != token:
            cache.back(begin, windows)
        if not is_ahead or taken != token:
            unread = [taken]
        if logprob is not None and taken != token:
            (logprob,) = cast(list[float], logprobs_of(before, mx.array([taken])).tolist())
        yield Token(taken, logprob, guide.ended)
        if guide.ended:
            return
        if cache.offset - cleared >= CLEAR_EVERY:
            mx.clear_cache()
            cleared = cache.offset


def _read(model: Lfm2VL, tokens: list[int], cache: Cache) -> mx.array:
    """Read tokens in one step; return the (1, vocab_size) logits of the next one."""
    if len(tokens) == 1:
        return decode_step(model)(mx.array(tokens, mx.uint32), cache)
    hidden = model.language_model(model.language_model.embed_tokens(mx.array([tokens])), cache)
    return model.head(hidden[:, -1])
