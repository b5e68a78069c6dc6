"""The loop that decodes one answer with a drafter: several tokens per pass over the weights.

- A round verifies a draft: the model reads the last token and the draft in one step, and the
  sampler says which of it stays; see `verifying`. The answer is that of the plain loop.
- The host reads the device once per round. What a drafter computes for the next round is queued
  before, and read together with what this round says.
- While there is no draft, tokens are decoded as in the plain loop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import mlx.core as mx
import numpy as np

from ..model.cache import Cache
from ..model.decode_step import UNCUT, Passes, TapReader, decode_step, prefill
from ..model.lfm2vl import Lfm2VL
from .loop import CLEAR_EVERY, Drafts, Token
from .sampling import Drawn
from .verifying import Verified, VerifyingSampler


class Drafter(TapReader, Protocol):
    """Guesses the next tokens of an answer. A wrong guess costs time but changes no token."""

    def add(self, token: int, /) -> None:
        """Append a token of the answer."""
        ...

    def skip(self, tokens: Sequence[int], /) -> None:
        """Append tokens that a constraint forces."""
        ...

    def cut(self, length: int, /) -> None:
        """Note that a constraint allows only so many tokens of the last draft."""
        ...

    def queue(
        self, anchor: mx.array, outputs: Sequence[mx.array], verified: Verified | None, /
    ) -> mx.array | None:
        """Queue the next draft on the device, if it is made there.

        Args:
            anchor: uint32 scalar, the token that the draft follows.
            outputs: (1, L, C) of each tapped layer, at the positions of this round.
            verified: of this round, of which only the accepted part counts; None if all of it does.

        Returns:
            int32 numbers for `told`, which the host reads with the tokens of this round; None if
            there is nothing to read.
        """
        ...

    def told(self, numbers: Sequence[int], kept: int, /) -> None:
        """Take the numbers of `queue`; `kept` positions of that round stay."""
        ...

    def draft(self, most: int) -> list[int]:
        """Return likely next tokens, at most `most`, or none to verify the last token alone."""
        ...

    @property
    def rests(self) -> bool:
        """Whether to decode as in the plain loop for now."""
        ...


@dataclass
class _Run:
    """One answer as it is decoded."""

    model: Lfm2VL
    cache: Cache
    sampler: VerifyingSampler
    drafter: Drafter
    drafts: Drafts
    left: int  # tokens
    cleared: int = field(init=False)

    def __post_init__(self) -> None:
        self.cleared = self.cache.offset
        self._step = decode_step(self.model, self.drafter.taps)

    def taken(self, token: Token) -> Token:
        """Count a token that is about to be yielded."""
        self.left -= 1
        self.drafter.add(token.id)
        if self.cache.offset - self.cleared >= CLEAR_EVERY:
            mx.clear_cache()
            self.cleared = self.cache.offset
        return token

    def draw(self, logits: mx.array) -> Drawn:
        drawn = self.sampler(logits)
        mx.async_eval(drawn, *self.cache.arrays)
        return drawn

    def step(self, tokens: mx.array) -> Drawn:
        """Queue the token after one that is not in the cache yet."""
        logits, outputs = self._step.tapped(tokens, self.cache)
        self.drafter.read([output[:, None] for output in outputs])
        return self.draw(logits)

    def first(self, drawn: Drawn) -> Token:
        """Read a token that was queued, and with it the draft that follows it."""
        numbers = self.drafter.queue(drawn.tokens[0], (), None)
        return self._read(drawn, numbers, [], has_read=False)[0]

    def round(self, last: int, draft: list[int]) -> list[Token]:
        """Read the last token and a draft in one step; return what stays of it, and one more."""
        decoder = self.model.language_model
        embeds = decoder.embed_tokens(mx.array([[last, *draft]], mx.uint32))
        hidden, outputs = decoder.tapped(embeds, self.cache, self.drafter.taps)
        verified = self.sampler.verify(self.model.head(hidden[0]), draft)
        anchor = verified.tokens[verified.accepted]
        numbers = self.drafter.queue(anchor, outputs, verified)
        tokens = self._read(verified, numbers, draft, has_read=True)
        self.sampler.keep(verified, [token.id for token in tokens])
        self.cache.trim(len(draft) + 1 - len(tokens))
        self.drafts.tried += len(draft)
        rounds = self.drafts.rounds
        rounds[len(tokens) - 1] = rounds.get(len(tokens) - 1, 0) + 1
        return tokens

    def _read(
        self,
        drawn: Drawn | Verified,
        numbers: mx.array | None,
        draft: Sequence[int],
        *,
        has_read: bool,
    ) -> list[Token]:
        """Wait for the device once, for all that the host needs of a round.

        Args:
            drawn: the tokens after the last one and after each of the draft.
            numbers: of the drafter.
            draft: that was verified.
            has_read: whether the model has read these positions.

        Returns:
            The tokens that stay.
        """
        parts = [drawn.tokens.view(mx.int32)]
        if drawn.logprobs is not None:
            parts.append(drawn.logprobs.view(mx.int32))  # bit by bit: one array, one wait
        if numbers is not None:
            parts.append(numbers)
        joined = mx.concatenate(parts) if len(parts) > 1 else parts[0]
        mx.async_eval(joined, *self.cache.arrays)
        found = cast(list[int], joined.tolist())
        count = len(draft) + 1
        said, logprobs = found[:count], cast(list[float | None], [None] * count)
        if drawn.logprobs is not None:
            logprobs = np.array(found[count : 2 * count], np.int32).view(np.float32).tolist()
        kept = next((i for i, guess in enumerate(draft) if guess != said[i]), len(draft)) + 1
        if numbers is not None:
            self.drafter.told(found[len(found) - numbers.size :], kept if has_read else 0)
        return [Token(*pair) for pair in zip(said[:kept], logprobs[:kept], strict=True)]


def drafted_step(
    model: Lfm2VL,
    inputs_embeds: mx.array,
    cache: Cache,
    sampler: VerifyingSampler,
    max_tokens: int,
    drafter: Drafter,
    drafts: Drafts,
    passes: Passes = UNCUT,
) -> Iterator[Token]:
    """Yield the tokens that `generate_step` yields.

    Args:
        model: the network.
        inputs_embeds: (1, L, C) embedded prompt.
        cache: of what came before the prompt; updated in place.
        sampler: draws the tokens.
        max_tokens: number of tokens to yield.
        drafter: must have the tokens of the prompt.
        drafts: counts drafted tokens; updated in place.
        passes: how the prompt is read.
    """
    reader = drafter if drafter.taps else None
    run = _Run(model, cache, sampler, drafter, drafts, max_tokens)
    queued = run.draw(prefill(model, inputs_embeds, cache, passes, reader))
    del inputs_embeds
    while run.left:
        while run.left and drafter.rests:
            drawn, queued = queued, run.step(queued.tokens) if run.left > 1 else queued
            yield run.taken(Token(*drawn.read()[0]))
        if not run.left:
            return
        # A draft must follow the queued token, which is not in the cache yet, so read it.
        last = run.first(queued)
        yield run.taken(last)
        while run.left and not drafter.rests:
            *agreed, more = run.round(last.id, drafter.draft(run.left - 1))
            for last in agreed:
                drafts.accepted += 1  # one by one: what stands behind an end token does not count
                yield run.taken(last)
            yield run.taken(last := more)
        if run.left:
            queued = run.step(mx.array([last.id], mx.uint32))
