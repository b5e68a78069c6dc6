"""The loop that decodes one answer token by token; `drafted` has the one with a drafter.

It knows a model, a cache and a sampler. It knows nothing of text or of when an answer ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from ..model.cache import Cache
from ..model.decode_step import UNCUT, Passes, decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from .result import FinishReason
from .sampling import Drawn

CLEAR_EVERY = 256  # tokens after which MLX's unused buffers are freed


class Token(NamedTuple):
    """One token of an answer.

    Attributes:
        id: its number in the vocabulary.
        logprob: its log-probability; None if the sampler does not report it.
        ended: why the answer ends with it, if a constraint allows no more; else None.
    """

    id: int
    logprob: float | None
    ended: FinishReason | None = None


@dataclass
class Drafts:
    """Counts of drafted tokens.

    Attributes:
        tried: tokens that were drafted and verified.
        accepted: tokens among these that the model would also have produced.
        rounds: how many drafts had so many tokens accepted.
    """

    tried: int = 0
    accepted: int = 0
    rounds: dict[int, int] = field(default_factory=dict[int, int])


def generate_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    sampler: Callable[[mx.array], Drawn],
    max_tokens: int,
    passes: Passes = UNCUT,
) -> Iterator[Token]:
    """Yield `max_tokens` tokens of an answer, also after an end token, unless the caller stops.

    Step n + 1 is queued before token n is read, so the device does not wait for the host.

    Args:
        model: the network.
        inputs_embeds: (1, L, C) embedded prompt.
        cache: of what came before the prompt; updated in place.
        sampler: draws a token from (1, vocab_size) logits.
        max_tokens: number of tokens to yield.
        passes: how the prompt is read.
    """

    def draw(logits: mx.array) -> Drawn:
        drawn = sampler(logits)
        mx.async_eval(drawn, *cache.arrays)
        return drawn

    queued = draw(prefill(model, inputs_embeds, cache, passes))
    del inputs_embeds
    step, cleared = decode_step(model), cache.offset
    for left in range(max_tokens, 0, -1):
        drawn, queued = queued, draw(step(queued.tokens, cache)) if left > 1 else queued
        yield Token(*drawn.read()[0])
        if cache.offset - cleared >= CLEAR_EVERY:
            mx.clear_cache()
            cleared = cache.offset
