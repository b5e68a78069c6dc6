"""The loop that decodes one answer inside a constraint with a drafter.

- It gives the tokens of `constrained_step`. A draft is known to the host before it is verified, so
  the guide says what may come at each of its places, and cuts what cannot.
- Tokens that come without choice are read with the next draft in one step.
- The host reads the device once per round. The next step is never queued before, not even while
  the drafter rests, because the guide must know the last token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np

from ..model.cache import Cache
from ..model.conv_window import TRIMMABLE
from ..model.decode_step import UNCUT, Passes, prefill
from ..model.lfm2vl import Lfm2VL
from .drafting import Drafter
from .guide import Guide
from .loop import CLEAR_EVERY, Drafts, Token
from .reading import arrays_of, read_together, tokens_of
from .sampling import Drawn, logprobs_of
from .verifying import Verified, VerifyingSampler


def drafted_constrained_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    sampler: VerifyingSampler,
    make_guide: Callable[[], Guide],
    drafter: Drafter,
    drafts: Drafts,
    passes: Passes = UNCUT,
) -> Iterator[Token]:
    """Yield the tokens of an answer until its guide says that it has ended.

    See `constrained_step` for the arguments, and `drafted_step` for `drafter` and `drafts`.
    """
    reader = drafter if drafter.taps else None
    logits = prefill(model, inputs_embeds, cache, passes, reader)
    mx.async_eval(logits, *cache.arrays)
    del inputs_embeds
    guide = make_guide()
    run = _Run(model, cache, sampler, drafter, guide)
    together = not (sampler.logprobs or sampler.processors)
    unread, cleared = list[int](), cache.offset  # what the cache has not read
    while True:
        forced = guide.forced() if together else []
        sampler.skip(forced)
        drafter.skip(forced)
        for place, token in enumerate(forced, 1):
            yield Token(token, None, guide.ended if place == len(forced) else None)
        if guide.ended:
            return
        unread += forced
        if unread:
            draft, allowed = run.draft(unread)
            said, logits = run.round(unread, draft, allowed)
            drafts.tried += len(draft)
            drafts.rounds[len(said) - 1] = drafts.rounds.get(len(said) - 1, 0) + 1
        else:
            said = run.first(logits)
        for place, (token, logprob, _) in enumerate(said):
            taken = guide.take(token)
            if logprob is not None and taken != token:
                row = logits[place : place + 1]
                (logprob,) = cast(list[float], logprobs_of(row, mx.array([taken])).tolist())
            drafts.accepted += place < len(said) - 1
            drafter.add(taken)
            unread = [taken]
            yield Token(taken, logprob, guide.ended)
            if guide.ended:
                return
        if cache.offset - cleared >= CLEAR_EVERY:
            mx.clear_cache()
            cleared = cache.offset


@dataclass
class _Run:
    """One answer as it is decoded."""

    model: Lfm2VL
    cache: Cache
    sampler: VerifyingSampler
    drafter: Drafter
    guide: Guide

    def draft(self, unread: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Return what to verify behind some tokens, and what is allowed at each place."""
        room = TRIMMABLE - len(unread)
        if self.drafter.rests or room <= 0:
            return [], self.guide.mask()[None]
        draft, allowed = self.guide.along(self.drafter.draft(room))
        self.drafter.cut(len(draft))
        return draft, allowed

    def first(self, logits: mx.array) -> list[Token]:
        """Draw from the logits after the prompt."""
        drawn = self.sampler(logits, self.guide.mask()[None])
        numbers = None if self.drafter.rests else self.drafter.queue(drawn.tokens[0], (), None)
        return self._read(drawn, numbers, [], 0)

    def round(
        self, unread: Sequence[int], draft: list[int], allowed: np.ndarray
    ) -> tuple[list[Token], mx.array]:
        """Read some tokens and a draft in one step.

        Args:
            unread: tokens that stay, at least one.
            draft: that follows them.
            allowed: at its places.

        Returns:
            What stays of the draft and one token more, and the logits that they were drawn from.
        """
        decoder, known = self.model.language_model, len(unread) - 1
        embeds = decoder.embed_tokens(mx.array([[*unread, *draft]], mx.uint32))
        hidden, outputs = decoder.tapped(embeds, self.cache, self.drafter.taps)
        logits = self.model.head(hidden[0, known:])
        verified = self.sampler.verify(logits, draft, allowed)
        numbers = None
        if self.drafter.rests:
            self.drafter.read(outputs)
        else:
            if known and outputs:
                self.drafter.read([output[:, :known] for output in outputs])
            own = [output[:, known:] for output in outputs]
            anchor = verified.tokens[verified.accepted]
            numbers = self.drafter.queue(anchor, own, verified)
        said = self._read(verified, numbers, draft, 1)
        self.sampler.keep(verified, [token.id for token in said])
        self.cache.trim(len(draft) + 1 - len(said))
        return said, logits

    def _read(
        self, drawn: Drawn | Verified, numbers: mx.array | None, draft: list[int], read: int
    ) -> list[Token]:
        """Wait for the device once; return what stays.

        Args:
            drawn: the token after what is known, and after each of the draft.
            numbers: of the drafter.
            draft: that was verified.
            read: how many positions before the draft were read with it.
        """
        arrays = [*arrays_of(drawn), *([] if numbers is None else [numbers])]
        mx.async_eval(arrays, self.cache.arrays)
        found = read_together(arrays)
        said = tokens_of(drawn, found)
        accepted = next((i for i, guess in enumerate(draft) if guess != said[i].id), len(draft))
        if numbers is not None:
            self.drafter.told(next(found).tolist(), accepted + read)
        return said[: accepted + 1]
