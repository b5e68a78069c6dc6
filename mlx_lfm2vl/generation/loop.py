"""The loop that decodes one answer: tokens in, tokens out, with or without a drafter.

It knows a model, a cache and a sampler, and nothing of text or of when an answer ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import mlx.core as mx

from ..model.cache import Cache
from ..model.decode_step import decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from .sampling import Drawn, greedy, logprobs_of

CLEAR_EVERY = 256  # tokens between returns of unused buffers to the system


class Token(NamedTuple):
    """One token of an answer.

    Attributes:
        id: in the vocabulary.
        logprob: its log-probability, if the sampler tells.
    """

    id: int
    logprob: float | None


class Drafter(Protocol):
    """Guesses how an answer goes on; a wrong guess costs time and changes nothing."""

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        ...

    def draft(self) -> list[int]:
        """The tokens that may follow, `options.MAX_LOOKUP` at most; empty without an idea."""
        ...


@dataclass
class Drafts:
    """How often guessing has helped.

    Attributes:
        tried: tokens that were drafted.
        accepted: of these, the ones that the model says itself.
    """

    tried: int = 0
    accepted: int = 0


def generate_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    sampler: Callable[[mx.array], Drawn],
    max_tokens: int,
    *,
    drafter: Drafter | None = None,
    drafts: Drafts | None = None,
    on_prefill: Callable[[int, int], object] | None = None,
) -> Iterator[Token]:
    """Yield the tokens of an answer, `max_tokens` at most, past any end token; the caller stops.

    Step n + 1 is queued before token n is read, so the device never waits for the host. A draft
    follows from the token before it, so a step that verifies one is waited for.

    Args:
        model: the network.
        inputs_embeds: (1, L, C) embedded prompt.
        cache: holds what came before the prompt, and takes the rest.
        sampler: from (1, vocab_size) logits to a token.
        max_tokens: how many to yield at most.
        drafter: has read the prompt; needs a greedy sampler.
        drafts: counts what the drafter gives.
        on_prefill: see `prefill`.
    """
    drafts = drafts if drafts is not None else Drafts()

    def draw(logits: mx.array) -> Drawn:
        drawn = sampler(logits)
        mx.async_eval(drawn, *cache.arrays)
        return drawn

    queued = draw(prefill(model, inputs_embeds, cache, on_prefill))
    del inputs_embeds
    step, left, cleared = decode_step(model), max_tokens, cache.offset
    while left:
        drawn, queued = queued, draw(step(queued.tokens, cache)) if left > 1 else queued
        yield (token := Token(*drawn.read()[0]))
        left -= 1
        if drafter is not None:
            drafter.add(token.id)
            if left and drafter.draft():
                # What follows is drafted from the queued token on, which is not in the cache.
                yield (token := Token(*queued.read()[0]))
                left -= 1
                drafter.add(token.id)
                while left and (draft := drafter.draft()[: left - 1]):
                    told = queued.logprobs is not None
                    for said in _verify(model, cache, token.id, draft, drafts, told):
                        yield said
                        left -= 1
                        drafter.add(said.id)
                        token = said
                if left:
                    queued = draw(step(mx.array([token.id], mx.uint32), cache))
        if cache.offset - cleared >= CLEAR_EVERY:
            mx.clear_cache()
            cleared = cache.offset


def _verify(
    model: Lfm2VL, cache: Cache, last: int, draft: list[int], drafts: Drafts, told: bool
) -> list[Token]:
    """Read the last token and a draft in one step.

    Args:
        model: the network.
        cache: of all before the last token; takes it and what is right of the draft.
        last: the last token.
        draft: tokens that may follow it.
        drafts: counts them.
        told: whether log-probabilities are wanted.

    Returns:
        What greedy decoding says: the right beginning of the draft, and one token more.
    """
    ids = mx.array([[last, *draft]], mx.uint32)
    hidden = model.language_model(model.language_model.embed_tokens(ids), cache)
    logits = model.head(hidden[0])
    best = greedy(logits)
    found = logprobs_of(logits, best) if told else None
    mx.async_eval(best, found, *cache.arrays)
    said = cast(list[int], best.tolist())
    agreed = next((i for i, guess in enumerate(draft) if guess != said[i]), len(draft))
    cache.trim(len(draft) - agreed)
    drafts.tried += len(draft)
    drafts.accepted += agreed
    logprobs = [None] * len(said) if found is None else cast(list[float], found.tolist())
    return [Token(*pair) for pair in zip(said[: agreed + 1], logprobs[: agreed + 1], strict=True)]
