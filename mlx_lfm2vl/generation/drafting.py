"""A draft model at work: what it has read of one answer, and the draft it makes for each round."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..model.draft_heads import chain_of
from ..model.drafter import DraftCache, DraftModel
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions
from .drafted import Drafter
from .lookup import Lookup
from .pace import Pace
from .prepare import Ready
from .verifying import Verified, VerifyingSampler

SURE = 0.8  # chance that an answer ends above which nothing is drafted behind it
HELD = 32  # plain positions whose taps are held before the drafter reads them


@dataclass
class Drafting:
    """A draft model, and what its rounds have taught.

    Attributes:
        model: from `load_drafter`.
        pace: of all answers with this model and its target on this machine.
        constrained: the same of those inside a constraint, whose tokens take another time.
    """

    model: DraftModel
    pace: Pace = field(init=False)
    constrained: Pace = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(self.model.config.block_size)
        self.constrained = Pace(self.model.config.block_size)


def make_drafter(
    drafting: Drafting | None,
    model: Lfm2VL,
    sampler: VerifyingSampler,
    ready: Ready,
    options: AnswerOptions,
) -> Drafter:
    """Return what drafts an answer, by its options: a draft model, prompt lookup, or both."""
    lookup = Lookup(ready.prefix.ids, options.lookup) if options.lookup else None
    if drafting is None or options.draft_tokens == 0:
        assert lookup is not None
        return lookup
    context = ready.branch.context or drafting.model.make_cache(ready.cached)
    ready.branch.context = context
    pace = drafting.constrained if options.constraint else drafting.pace
    most = drafting.model.config.block_size
    if options.draft_tokens is not None:
        pace, most = None, min(most, options.draft_tokens)
    return ModelDrafter(drafting.model, model, sampler, context, pace, most, lookup)


class ModelDrafter:
    """A `drafted.Drafter` of a draft model, for one answer.

    Attributes:
        taps: layers of the target that it reads.
        proposals: most tokens of a draft.
        context: of the positions it has read, all of them committed.
        confidence: of each token of the next draft; empty if there is none.
        tried: tokens that the draft model proposed for this round; None if lookup did.
    """

    def __init__(
        self,
        drafter: DraftModel,
        model: Lfm2VL,
        sampler: VerifyingSampler,
        context: DraftCache,
        pace: Pace | None,
        proposals: int,
        lookup: Lookup | None = None,
    ) -> None:
        """
        Args:
            drafter: the draft model.
            model: its target.
            sampler: of the answer.
            context: of what is cached of the prompt.
            pace: chooses the length of drafts; None always takes `proposals`.
            proposals: most tokens of a draft, at most the drafter's `block_size`.
            lookup: what it copies goes before the drafter's proposals.
        """
        self._drafter, self._model, self._sampler = drafter, model, sampler
        self.context, self._pace, self.proposals = context, pace, proposals
        self._lookup = lookup
        self.taps = drafter.config.target_layer_ids
        block = [drafter.config.mask_token_id] * drafter.config.block_size
        self._block = mx.array(block, mx.uint32)
        self._is_anchor = mx.array([place == 0 for place in range(len(block))])
        self._ends = frozenset(model.config.eos_token_ids)
        self._is_last = False  # whether the draft being verified ends the answer
        self._open: mx.array | None = None  # taps of a round that no draft follows
        self._held: list[mx.array] = []  # taps of committed positions, not read yet
        self._new = 0  # positions of the round, of which only some may stay
        self._tokens: list[int] = []
        self.confidence: list[float] = []
        self.tried: int | None = None  # tokens of the draft that is being verified
        self._clock: float | None = None

    def read(self, outputs: Sequence[mx.array]) -> None:
        """Take the layers' outputs at committed positions."""
        self._held.append(mx.concatenate(list(outputs), axis=-1))
        self._tokens, self.confidence = [], []  # a draft from before does not follow these
        if sum(taps.shape[1] for taps in self._held) >= HELD:
            self._append()

    def _append(self) -> None:
        if self._held:
            self._drafter.append(mx.concatenate(self._held, axis=1), self.context)
            self._held = []
            mx.async_eval(self.context.arrays)

    def branched_off(self) -> DraftCache:
        """Return the context of what was read so far, for a prefix store; go on with a copy."""
        self._append()
        context = self.context
        self.context = context.until(context.end) or context
        return context

    def add(self, token: int) -> None:
        """Append a token of the answer; while drafting rests, learn what it costs without."""
        if self._lookup is not None:
            self._lookup.add(token)
        if self._pace is not None and self._pace.rests:
            self._pace.plain(self._lap())

    def skip(self, tokens: Sequence[int]) -> None:
        """Append tokens that came without choice; the draft goes on behind them if it has them."""
        for token in tokens:
            self.add(token)
        fits, count = self._tokens[: len(tokens)] == list(tokens), len(tokens)
        self._tokens = self._tokens[count:] if fits else []
        self.confidence = self.confidence[count:] if fits else []

    def cut(self, length: int) -> None:
        """Note that only so many tokens of the draft are verified."""
        self._is_last = self._is_last and self.tried is not None and self.tried <= length
        self.tried = None if self.tried is None else min(self.tried, length)

    def queue(
        self, anchor: mx.array, outputs: Sequence[mx.array], verified: Verified | None
    ) -> mx.array | None:
        """Queue the draft after a round; see `drafted.Drafter`.

        After a draft that ends the answer nothing is drafted: it would seldom be used.
        """
        self._append()
        taps = mx.concatenate(list(outputs), axis=-1) if outputs else None
        if self._is_last:
            self._open = taps
            return mx.zeros((0,), mx.int32)
        valid = 0 if verified is None else verified.accepted + 1
        ids = mx.where(self._is_anchor, anchor, self._block)
        block = self._model.language_model.embed_tokens(ids)[None]
        states = self._drafter.states(block, self.context, taps, valid)[0]
        states = states[: self.proposals]  # the block is whole: fewer masks make another draft
        scores, scale = self._sampler.anticipate(self._model.head(states), verified)
        return self._drafter.propose(states, scores, anchor, scale).numbers

    def told(self, numbers: Sequence[int], kept: int) -> None:
        """Take the draft for the next round; `kept` positions of this one stay."""
        if self._open is None:
            self.context.length += kept
        else:
            self._held.append(self._open[:, :kept])
            self._append()
        seconds = self._lap()
        if self._is_last:
            seconds = None  # a round without a draft is no measure of others
        self._is_last, self._open = False, None
        if self.tried is not None and self._pace is not None:
            self._pace.round(self.tried, kept - 1, self.confidence, seconds)
        self.tried = None
        self._tokens, self.confidence = [], []
        if numbers:
            parts = 3 if self._drafter.config.has_confidence else 2
            self._tokens, self.confidence = chain_of(numbers, self.proposals, parts)

    def draft(self, most: int) -> list[int]:
        """Return the tokens to verify, at most `most`."""
        if self._lookup is not None and not self._lookup.rests:
            self.tried = None
            return self._lookup.draft(most)
        length = min(self.proposals, most)
        if self._pace is not None:
            length = self._pace.length(self.confidence, length)
        draft = self._tokens[:length]
        end = next((place for place, token in enumerate(draft) if token in self._ends), None)
        if end is not None:  # nothing behind it would be kept
            draft = draft[: end + 1]
            self._is_last = math.prod(self.confidence[: end + 1] or [0]) > SURE
        self.tried = len(draft)
        return draft

    @property
    def rests(self) -> bool:
        """Whether drafting does not pay for now."""
        return self._pace is not None and self._pace.rests

    def _lap(self) -> float | None:
        """Return the seconds since the last call; None at first."""
        last, self._clock = self._clock, time.perf_counter()
        return None if last is None else self._clock - last
