"""The loop that decodes one answer token by token, with or without a drafter.

It knows a model, a cache and a sampler. It knows nothing of text or of when an answer ends.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, cast

import mlx.core as mx

from ..model.cache import Cache
from ..model.decode_step import decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from .sampling import Drawn, greedy, logprobs_of

CLEAR_EVERY = 256  # tokens after which MLX's unused buffers are freed

FinishReason = Literal["stop", "length"]


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


class Drafter(Protocol):
    """Guesses the next tokens of an answer. A wrong guess costs time but changes no token."""

    def add(self, token: int) -> None:
        """Append a token of the answer."""
        ...

    def draft(self) -> list[int]:
        """Return likely next tokens, at most `options.MAX_LOOKUP`, or none."""
        ...


@dataclass
class Drafts:
    """Counts of drafted tokens.

    Attributes:
        tried: tokens that were drafted and verified.
        accepted: tokens among these that the model would also have produced.
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
    ends: Sequence[int] = (),
    reached: Callable[[], object] | None = None,
) -> Iterator[Token]:
    """Yield `max_tokens` tokens of an answer, also after an end token, unless the caller stops.

    Step n + 1 is queued before token n is read, so the device does not wait for the host. A draft
    depends on the tokens before it, so the host waits for each step that verifies one.

    Args:
        model: the network.
        inputs_embeds: (1, L, C) embedded prompt.
        cache: of what came before the prompt; updated in place.
        sampler: draws a token from (1, vocab_size) logits.
        max_tokens: number of tokens to yield.
        drafter: must have the tokens of the prompt; requires a greedy sampler.
        drafts: counts drafted tokens; updated in place.
        on_prefill: the `report` of `prefill`.
        ends: see `prefill`.
        reached: see `prefill`.
    """
    drafts = drafts if drafts is not None else Drafts()

    def draw(logits: mx.array) -> Drawn:
        drawn = sampler(logits)
        mx.async_eval(drawn, *cache.arrays)
        return drawn

    queued = draw(prefill(model, inputs_embeds, cache, on_prefill, ends, reached))
    del inputs_embeds
    step, left, cleared = decode_step(model), max_tokens, cache.offset
    while left:
        drawn, queued = queued, draw(step(queued.tokens, cache)) if left > 1 else queued
        yield (token := Token(*drawn.read()[0]))
        left -= 1
        if drafter is not None:
            drafter.add(token.id)
            if left and drafter.draft():
                # Drafts must follow the queued token, which is not in the cache yet, so read it.
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
    """Read the last token and a draft in one step and keep what greedy decoding agrees with.

    Args:
        model: the network.
        cache: of all tokens before the last; extended by the last token and the accepted ones.
        last: the last token.
        draft: tokens that may follow it.
        drafts: counts the draft's tokens; updated in place.
        told: whether to compute log-probabilities.

    Returns:
        The tokens of greedy decoding: the accepted beginning of the draft and one token more.
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
