"""A batch that decodes with drafters: several tokens of every row per pass over the weights.

- A round verifies a draft of every row. The rows accept different numbers of tokens, so they end in
  different columns of the cache; no key or value is moved.
- All rows of a round read equally many positions. Shorter drafts are padded, and what follows the
  row's own draft is neither sampled nor kept.
- Each row has its own drafter and sampler, which see only this row. So it gets the tokens that it
  gets alone.
- The host reads the device once per round, for all rows together.
- While no row has a draft, tokens are decoded one by one, and the next step is queued before the
  last is read.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import mlx.core as mx
import numpy as np

from ..model.cache import Cache, Rows
from ..model.decode_step import decode_step
from ..model.lfm2vl import Lfm2VL
from ..options import AnswerOptions
from .batch import Row, groups_of, read_prompts
from .drafting import Drafter, Drafting, ModelDrafter, make_drafter
from .loop import CLEAR_EVERY, Token
from .pace import Pace
from .prefix_store import PrefixStore
from .reading import arrays_of, read_together, tokens_of
from .sampling import Drawn
from .verifying import Verified, VerifyingSampler


@dataclass
class _Line:
    """A row with what drafts and draws its tokens.

    Attributes:
        unread: the last token, if it is only on the device.
        last: the last token, if the host has read it. No cache has read either.
    """

    row: Row
    sampler: VerifyingSampler
    drafter: Drafter
    unread: Drawn | None = None
    last: int = 0

    @property
    def token(self) -> mx.array:
        """The last token, (1,) uint32."""
        return self.unread.tokens if self.unread else mx.array([self.last], mx.uint32)

    def add(self, tokens: Sequence[Token], accepted: int = 0) -> None:
        """Add tokens to the answer, until it ends.

        Args:
            tokens: that the host has read.
            accepted: how many of these, before the last one, were drafted.
        """
        for place, token in enumerate(tokens, accepted + 1 - len(tokens)):
            if self.row.answer.finish_reason:
                return
            if 0 <= place < accepted:
                self.row.drafts.accepted += 1
            self.row.add(token)
            self.drafter.add(token.id)


class _Readers:
    """Gives every drafter the tapped outputs of its row; see `decode_step.TapReader`."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self._drafters, self.taps = drafters, drafters[0].taps

    def read(self, outputs: Sequence[mx.array]) -> None:
        """Take (B, L, C) of each tapped layer."""
        for number, drafter in enumerate(self._drafters):
            drafter.read([output[number : number + 1] for output in outputs])


class DraftedBatch:
    """The conversations being answered; does what `Batch` does, with drafts."""

    def __init__(
        self,
        model: Lfm2VL,
        options: AnswerOptions,
        store: PrefixStore | None,
        drafting: Drafting | None,
    ) -> None:
        """
        Args:
            model: the network.
            options: of the answers, without a constraint.
            store: where the prompts that are read are kept.
            drafting: the draft model; None drafts by lookup only.
        """
        self._model, self._options, self._store, self._drafting = model, options, store, drafting
        self._sampling = options.sampling_over(model.config.sampling)
        # Rounds of a batch cost other times than those of a single answer, which `drafting` knows.
        self._pace: Pace | None = None
        if drafting is None:
            self._options = replace(options, draft_tokens=0)
        elif options.draft_tokens is None:
            block = drafting.model.config.block_size
            self._pace, self._options = Pace(block), replace(options, draft_tokens=block)
        self._cache = model.make_cache(options.kv_bits)
        self._lines: list[_Line] = []
        self._clock: float | None = None
        self._steps = 0

    @property
    def rows(self) -> list[Row]:
        """The conversations; finished ones stay until the next `take`."""
        return [line.row for line in self._lines]

    def take(self, arrived: Sequence[Row]) -> None:
        """Add new rows, whose prompts it reads, and drop finished ones."""
        kept = [i for i, row in enumerate(self.rows) if not row.answer.finish_reason]
        if len(kept) == len(self._lines) and not arrived:
            return
        parts = [Rows(self._cache, kept)] if kept else []
        self._lines = [self._lines[i] for i in kept]
        for group in groups_of(arrived, self._store):
            lines = [self._line(row) for row in group]
            readers = _Readers([line.drafter for line in lines])
            reader = readers if readers.taps else None
            logits, cache = read_prompts(self._model, group, self._options, self._store, reader)
            for number, line in enumerate(lines):
                if self._store and isinstance(line.drafter, ModelDrafter):
                    line.drafter.branch_off()
                line.unread = line.sampler(logits[number : number + 1])
            mx.async_eval([line.unread for line in lines], cache.arrays)
            parts.append(Rows(cache, range(len(group))))
            self._lines += lines
        if self._lines:
            self._cache = Cache.joined(parts)
        self._clock = None

    def _line(self, row: Row) -> _Line:
        options = self._options
        sampler = VerifyingSampler(
            self._sampling,
            [row.prompt.input_ids],
            [row.seed],
            processors=options.logits_processors,
            logprobs=options.logprobs,
        )
        drafter = make_drafter(self._drafting, self._model, sampler, row.ready, options)
        return _Line(row, sampler, drafter)

    def step(self) -> list[Row]:
        """Decode one token of every row, or one round; return the rows that this finishes."""
        if self._pace.rests if self._pace else all(line.drafter.rests for line in self._lines):
            self._plain_step()
        else:
            self._round()
        self._steps += 1
        if self._steps % CLEAR_EVERY == 0:
            mx.clear_cache()
        return [row for row in self.rows if row.answer.finish_reason]

    def _plain_step(self) -> None:
        """Queue the next token of every row, then read the last ones that are not read."""
        tokens = mx.concatenate([line.token for line in self._lines])
        step = decode_step(self._model, self._lines[0].drafter.taps)
        logits, outputs = step.tapped(tokens, self._cache)
        unread = [line.unread for line in self._lines]
        for number, line in enumerate(self._lines):
            line.unread = line.sampler(logits[number : number + 1])
            line.drafter.read([output[number : number + 1, None] for output in outputs])
        mx.async_eval([line.unread for line in self._lines], self._cache.arrays)
        found = read_together([array for drawn in unread for array in arrays_of(drawn)])
        for line, drawn in zip(self._lines, unread, strict=True):
            line.add(tokens_of(drawn, found))
        if self._pace is not None:
            self._pace.plain(self._lap())

    def _round(self) -> None:
        """Read the last token and a draft of every row in one step; take what stays of each."""
        drafts = self._drafts()
        longest = max(map(len, drafts))
        padded = [[*draft, *[0] * (longest - len(draft))] for draft in drafts]
        ids = mx.concatenate([line.token for line in self._lines])[:, None]
        if longest:
            ids = mx.concatenate([ids, mx.array(padded, mx.uint32)], axis=1)
        decoder, taps = self._model.language_model, self._lines[0].drafter.taps
        hidden, outputs = decoder.tapped(decoder.embed_tokens(ids), self._cache, taps)
        logits = self._model.head(hidden)
        rounds: list[tuple[Verified, mx.array | None]] = []
        arrays: list[mx.array] = []
        for number, (line, draft) in enumerate(zip(self._lines, drafts, strict=True)):
            count = len(draft) + 1
            verified = line.sampler.verify(logits[number, :count], draft)
            own = [output[number : number + 1, :count] for output in outputs]
            told = line.drafter.queue(verified.tokens[verified.accepted], own, verified)
            rounds.append((verified, told))
            arrays += [
                *arrays_of(line.unread),
                *arrays_of(verified),
                *([] if told is None else [told]),
            ]
        mx.async_eval(self._cache.arrays)
        found, kept = read_together(arrays), list[int]()
        for line, draft, (verified, told) in zip(self._lines, drafts, rounds, strict=True):
            before, said = tokens_of(line.unread, found), tokens_of(verified, found)
            accepted = next((i for i, guess in enumerate(draft) if guess != said[i].id), len(draft))
            said = said[: accepted + 1]
            kept.append(len(said))
            self._learn(line, len(draft), accepted)
            if told is not None:
                line.drafter.told(next(found).tolist(), len(said))
            line.sampler.keep(verified, [token.id for token in said])
            line.unread, line.last = None, said[-1].id
            line.add([*before, *said], accepted)
        self._cache.trim_rows([longest + 1 - count for count in kept])
        if self._pace is not None:
            self._pace.took(longest, sum(kept) / len(kept), self._lap())

    def _drafts(self) -> list[list[int]]:
        """Return what to verify of every row; nothing of a row whose last token is not read."""
        left = [self._options.max_tokens - len(row.answer.token_ids) - 1 for row in self.rows]
        length = max(left)
        if (
            self._pace is not None
        ):  # one length for all, because a round takes as long as its longest
            drafters = [line.drafter for line in self._lines if line.unread is None]
            sure = [d.confidence for d in drafters if isinstance(d, ModelDrafter) and d.confidence]
            mean = cast(list[float], np.mean(sure, axis=0).tolist()) if sure else []
            length = self._pace.length(mean, length)
        return [
            [] if line.unread else line.drafter.draft(min(length, most))
            for line, most in zip(self._lines, left, strict=True)
        ]

    def _learn(self, line: _Line, tried: int, accepted: int) -> None:
        """Count the draft of one row; one whose last token was not read had none."""
        if line.unread is not None:
            return
        drafts, drafter = line.row.drafts, line.drafter
        drafts.tried += tried
        drafts.rounds[accepted] = drafts.rounds.get(accepted, 0) + 1
        if self._pace and isinstance(drafter, ModelDrafter) and drafter.tried is not None:
            self._pace.judged(tried, accepted, drafter.confidence)

    def _lap(self) -> float | None:
        """Return the seconds since the last call; None if rows have come or gone since."""
        last, self._clock = self._clock, time.perf_counter()
        return None if last is None else self._clock - last
