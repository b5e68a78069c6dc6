"""Rounds of a batch: several tokens of every row per pass over the weights.

- A round verifies a draft of every row. The rows accept different numbers of tokens, so they end in
  different columns of the cache; no key or value is moved.
- All rows of a round read equally many positions. Shorter drafts are padded, and what follows the
  row's own draft is neither sampled nor kept. A row without a drafter has an empty draft.
- A row's drafter and sampler see only this row. So it gets the tokens that it gets alone.
- The host knows the last token of every row before a round, so it knows what a constraint allows at
  each place of a draft. Tokens that come without choice are a draft that is always right.
- The host reads the device once per round, for all rows together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx
import numpy as np

from ..errors import Lfm2VLError
from ..model.cache import Cache
from ..model.conv_window import TRIMMABLE
from ..model.lfm2vl import Lfm2VL
from .drafting import ModelDrafter
from .pace import Pace
from .reading import arrays_of, read_together, tokens_of
from .row import Row
from .sampling import Drawn
from .verifying import Verified, VerifyingSampler


@dataclass
class _Draft:
    """What a round verifies of one row.

    Attributes:
        tokens: of the draft.
        known: how many of these, from the first on, come without choice.
        allowed: (G + 1, vocab_size) bool, the tokens that may come at each place; None allows all.
    """

    tokens: list[int]
    known: int = 0
    allowed: np.ndarray | None = None


class Rounds:
    """Decodes the rounds of one batch, and chooses when and how long drafts are."""

    def __init__(self, model: Lfm2VL) -> None:
        self._model = model
        self._paces: dict[int, Pace] = {}  # by the number of rows, on which times depend
        self._clock: float | None = None

    def changed(self) -> None:
        """Note that rows have come or gone: the time until the next step means nothing."""
        self._clock = None

    def are_wanted(self, rows: Sequence[Row]) -> bool:
        """Return whether a row has something to draft."""
        return any(not self._rests(rows, row) for row in rows if row.drafter and not row.is_over)

    def plain(self, rows: Sequence[Row]) -> None:
        """Learn what a step without drafts costs."""
        pace = self._pace(rows)
        if pace is not None:
            pace.plain(self._lap())

    def begin(self, rows: Sequence[Row], drawn: Drawn, drawn_from: mx.array) -> None:
        """Read the tokens that are only on the device, and the drafts that follow them.

        Args:
            rows: of the batch.
            drawn: their tokens.
            drawn_from: the logits of these.
        """
        drafters = [row.drafter for row in rows]
        told = [
            drafter.queue(drawn.tokens[number], (), None) if drafter else None
            for number, drafter in enumerate(drafters)
        ]
        found = read_together([*arrays_of(drawn), *(array for array in told if array is not None)])
        tokens = tokens_of(drawn, found)
        for place, (row, drafter, array) in enumerate(zip(rows, drafters, told, strict=True)):
            if drafter and array is not None:
                drafter.told(next(found).tolist(), 0)
            row.add(tokens[place], drawn_from, place)
        self._lap()

    def round(self, rows: Sequence[Row], cache: Cache) -> None:
        """Read the last token and a draft of every row in one step; take what stays of each."""
        drafts = self._drafts(rows)
        longest = max(len(draft.tokens) for draft in drafts)
        ids = [
            [row.last, *draft.tokens, *[0] * (longest - len(draft.tokens))]
            for row, draft in zip(rows, drafts, strict=True)
        ]
        decoder, model = self._model.language_model, self._model
        taps = next((row.drafter.taps for row in rows if row.drafter and row.drafter.taps), ())
        embeds = decoder.embed_tokens(mx.array(ids, mx.uint32))
        hidden, outputs = decoder.tapped(embeds, cache, taps)
        logits = model.head(hidden)
        rounds: list[tuple[Verified, mx.array | None]] = []
        arrays: list[mx.array] = []
        for number, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            count, sampler = len(draft.tokens) + 1, cast(VerifyingSampler, row.sampler)
            verified = sampler.verify(logits[number, :count], draft.tokens, draft.allowed)
            own = [output[number : number + 1, :count] for output in outputs]
            anchor, told = verified.tokens[verified.accepted], None
            if row.drafter:
                told = row.drafter.queue(anchor, own if row.drafter.taps else (), verified)
            rounds.append((verified, told))
            arrays += [*arrays_of(verified), *([] if told is None else [told])]
        mx.async_eval(cache.arrays)
        found, kept = read_together(arrays), list[int]()
        for number, (row, draft, (verified, told)) in enumerate(
            zip(rows, drafts, rounds, strict=True)
        ):
            said = tokens_of(verified, found)
            tokens = draft.tokens
            accepted = next((i for i, guess in enumerate(tokens) if guess != said[i].id), None)
            accepted = len(tokens) if accepted is None else accepted
            said = said[: accepted + 1]
            kept.append(len(said))
            self._learn(rows, row, draft, accepted)
            if row.drafter and told is not None:
                row.drafter.told(next(found).tolist(), len(said))
            cast(VerifyingSampler, row.sampler).keep(verified, [token.id for token in said])
            for place, token in enumerate(said):
                row.drafts.accepted += draft.known <= place < accepted and not row.is_over
                row.add(token, logits[number], place)
        cache.trim_rows([longest + 1 - count for count in kept])
        pace = self._pace(rows)
        if pace is not None:
            pace.took(longest, sum(kept) / len(kept), self._lap())

    def _drafts(self, rows: Sequence[Row]) -> list[_Draft]:
        """Return what to verify of every row."""
        pace, length = self._pace(rows), TRIMMABLE - 1
        if pace is not None:  # one length for all, because a round takes as long as its longest
            drafters = [row.drafter for row in rows if _is_paced(row)]
            sure = [d.confidence for d in drafters if isinstance(d, ModelDrafter) and d.confidence]
            mean = cast(list[float], np.mean(sure, axis=0).tolist()) if sure else []
            length = pace.length(mean, max(row.left - 1 for row in rows))
        return [self._draft(row, length if _is_paced(row) else TRIMMABLE - 1) for row in rows]

    def _draft(self, row: Row, most: int) -> _Draft:
        if row.is_over:
            return _Draft([])
        room = min(row.left, TRIMMABLE) - 1
        draft = row.drafter.draft(min(most, room)) if row.drafter else []
        if row.guide is None:
            return _Draft(draft)
        forced = row.guide.decided
        if draft[: len(forced)] != forced:
            draft = forced
        try:
            tokens, allowed = row.guide.along(draft[:room])
        except Lfm2VLError as error:
            row.error = error
            return _Draft([])
        known = min(len(forced), len(tokens))
        if row.drafter:
            row.drafter.cut(len(tokens) - known)
        return _Draft(tokens, known, allowed)

    def _learn(self, rows: Sequence[Row], row: Row, draft: _Draft, accepted: int) -> None:
        """Count the draft of one row."""
        drafter, tried = row.drafter, len(draft.tokens) - draft.known
        if drafter is None:
            return
        right = max(0, accepted - draft.known)
        row.drafts.tried += tried
        row.drafts.rounds[right] = row.drafts.rounds.get(right, 0) + 1
        pace = self._pace(rows)
        if pace and _is_paced(row) and not draft.known:
            assert isinstance(drafter, ModelDrafter)
            if drafter.tried is not None:
                pace.judged(tried, accepted, drafter.confidence)

    def _rests(self, rows: Sequence[Row], row: Row) -> bool:
        pace = self._pace(rows) if _is_paced(row) else None
        assert row.drafter is not None
        return row.drafter.rests if pace is None else pace.rests

    def _pace(self, rows: Sequence[Row]) -> Pace | None:
        """Return what chooses the length of drafts; None if every row's options say it."""
        drafter = next((row.drafter for row in rows if _is_paced(row)), None)
        if not isinstance(drafter, ModelDrafter):
            return None
        if len(rows) not in self._paces:
            self._paces[len(rows)] = Pace(drafter.proposals)
        return self._paces[len(rows)]

    def _lap(self) -> float | None:
        """Return the seconds since the last call; None if rows have come or gone since."""
        last, self._clock = self._clock, time.perf_counter()
        return None if last is None else self._clock - last


def _is_paced(row: Row) -> bool:
    """Return whether the batch chooses the length of a row's drafts."""
    return row.options.draft_tokens is None and isinstance(row.drafter, ModelDrafter)
