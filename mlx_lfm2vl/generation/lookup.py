"""Prompt lookup: guess what comes next from what was said before, and check it in one step.

Follows Saxena, Prompt Lookup Decoding (2023): where an answer copies, as a list of boxes does or
a text that is read twice, several tokens come for the price of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx

from ..model.cache import Cache
from ..model.decode_step import decode_step, prefill
from ..model.lfm2vl import Lfm2VL

CLEAR_EVERY = 256  # positions between returns of unused buffers to the system
NGRAM = 3  # tokens that must agree before what followed them is tried


@dataclass
class Drafts:
    """How often guessing has helped.

    Attributes:
        tried: tokens that were guessed.
        accepted: of these, the ones that the model says itself.
    """

    tried: int = 0
    accepted: int = 0


class History:
    """All tokens so far, and where every few of them were last seen together."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> place of what followed it last
        for token in token_ids:
            self.add(token)

    @property
    def last(self) -> int:
        return self._ids[-1]

    def add(self, token: int) -> None:
        """Append a token."""
        if len(self._ids) >= NGRAM:
            self._after[tuple(self._ids[-NGRAM:])] = len(self._ids)
        self._ids.append(token)

    def draft(self, most: int) -> list[int]:
        """`most` tokens as they followed when the last few were there before, or none."""
        place = self._after.get(tuple(self._ids[-NGRAM:]))
        if place is None:
            return []
        draft = self._ids[place : place + most]
        while len(draft) < most:  # a loop: what it says next it has just said
            draft += draft[: most - len(draft)]
        return draft


def lookup_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    prompt_ids: Sequence[int],
    most: int,
    drafts: Drafts,
) -> Iterator[int]:
    """Yield the token ids of greedy decoding without end, copied ones several per step.

    While there is nothing to copy the next step is queued before a token is read, as without
    lookup. A guess follows from the token before it, so steps that check guesses are waited for.

    Args:
        model: the network.
        inputs_embeds: (1, L, C) embedded prompt.
        cache: empty; takes prompt and answer.
        prompt_ids: L ids.
        most: tokens guessed at a time, 1 to `config.MAX_LOOKUP`.
        drafts: counts the guesses.
    """

    def best(logits: mx.array) -> mx.array:
        tokens = mx.argmax(logits, axis=-1)
        mx.async_eval(tokens, *cache.arrays)
        return tokens

    history = History(prompt_ids)
    token = best(prefill(model, inputs_embeds, cache))
    del inputs_embeds
    step, cleared = decode_step(model), 0
    while True:
        queued = best(step(token, cache))
        history.add(cast(int, token.item()))
        yield history.last
        token = queued
        if not history.draft(most):
            continue
        history.add(cast(int, token.item()))
        yield history.last
        while draft := history.draft(most):
            ids = mx.array([[history.last, *draft]], mx.uint32)
            hidden = model.language_model(model.language_model.embed_tokens(ids), cache)
            said = cast(list[int], best(model.head(hidden[0])).tolist())
            agreed = next((i for i, guess in enumerate(draft) if guess != said[i]), len(draft))
            cache.rewind(len(draft) - agreed)
            drafts.tried += len(draft)
            for place, value in enumerate(said[: agreed + 1]):
                history.add(value)
                drafts.accepted += place < agreed
                yield value
        if cache.offset - cleared >= CLEAR_EVERY:
            mx.clear_cache()
            cleared = cache.offset
        token = best(step(mx.array([history.last], mx.uint32), cache))
