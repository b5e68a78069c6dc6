"""A batch: each pass over the weights gives one token, or several, of every answer.

- Rows join and leave between any two tokens. Each has options of its own; all share `kv_bits`.
- A row gets the tokens that it gets alone, whoever is beside it.
- Rows of equal sampling are drawn by one sampler, so that a uniform batch queues as few operations
  as if all rows were one. They stand together in the cache.
- A step is queued before the last one is read, so the device does not wait for the host. While a
  row has a constraint, the next tokens are drawn after reading, because the host must say which are
  allowed; the network's part of the step is queued before all the same.
- Rows with drafters have samplers of their own. While some of them draft, `rounds` decodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ..model.cache import Cache, Rows
from ..model.decode_step import decode_step
from ..model.lfm2vl import Lfm2VL
from .arrival import Arrival
from .loop import CLEAR_EVERY, Token
from .prefix_store import PrefixStore
from .row import Row
from .sampling import Drawn, Sampler

if TYPE_CHECKING:  # imported where there is a drafter
    from .rounds import Rounds

DRAFTED = 3  # rows of the largest batch that drafts unless asked to: in larger ones less is gained


class Batch:
    """The conversations being answered, with their cache.

    Attributes:
        rows: in the order of the cache's rows; those that are over stay until the next `join`.
    """

    def __init__(self, model: Lfm2VL, kv_bits: int = 0, most_drafted: int = DRAFTED) -> None:
        """
        Args:
            model: the network.
            kv_bits: of the cache.
            most_drafted: rows of the largest batch that drafts. If more have joined, all go on
                without their drafters, to the end of their answers.
        """
        self._model, self._kv_bits, self._most_drafted = model, kv_bits, most_drafted
        self._cache = model.make_cache(kv_bits)
        self._decode = decode_step(model)
        # One token per row that is on the device only; None if the host has read all of them. No
        # cache has read either.
        self._queued: Drawn | None = None
        self._logits = mx.array([])  # that the queued tokens were drawn from
        self._rounds: Rounds | None = None
        self._steps = 0
        self.rows: list[Row] = []

    def join(self, arrivals: Iterable[Arrival] = ()) -> bool:
        """Add rows whose prompts were read, and drop those that are over.

        Rows that join no others get their first tokens here, before another step is queued.

        Returns:
            Whether there are such tokens.
        """
        kept = [i for i, row in enumerate(self.rows) if not row.is_over]
        rows = [self.rows[i] for i in kept]
        found = {id(row): (self._cache, i) for row, i in zip(rows, kept, strict=True)}
        arrived: list[Row] = []
        drawn, logits = list[Drawn](), list[mx.array]()
        for arrival in arrivals:
            drawn.append(_drawn(arrival.rows, arrival.logits))
            logits.append(arrival.logits)
            mx.async_eval(drawn[-1], arrival.cache.arrays)
            found |= {id(row): (arrival.cache, i) for i, row in enumerate(arrival.rows)}
            arrived += arrival.rows
        if not arrived and len(kept) == len(self.rows):
            return False
        self._queued = self._queued if rows else None
        if self._queued is not None:
            numbers = mx.array(kept)
            drawn.insert(0, self._queued.rows(numbers))
            logits.insert(0, self._logits[numbers])
        elif arrived:  # the tokens of all others are read, so these must be, too
            _add(arrived, Drawn.joined(drawn), mx.concatenate(logits))
        together = [*rows, *arrived]
        self.rows = self._grouped(together)
        if not self.rows:
            self._cache = self._model.make_cache(self._kv_bits)
            return False
        self._cache = _joined([found[id(row)] for row in self.rows])
        if self._queued is not None:
            self._queued, self._logits = Drawn.joined(drawn), mx.concatenate(logits)
            order = [together.index(row) for row in self.rows]
            if order != sorted(order):
                self._queued = self._queued.rows(mx.array(order))
                self._logits = self._logits[mx.array(order)]
        drafters = [row.drafter for row in self.rows if row.drafter]
        taps = next((drafter.taps for drafter in drafters if drafter.taps), ())
        self._decode = decode_step(self._model, taps)
        if drafters and self._rounds is None:
            from .rounds import Rounds

            self._rounds = Rounds(self._model)
        if self._rounds:
            self._rounds.changed()
        return bool(arrived) and not rows

    def keep_answers(self, store: PrefixStore) -> None:
        """Leave to a store what rows that are over have read; the next `join` drops them.

        The next turn of a conversation then reads only what is new.
        """
        for number, row in enumerate(self.rows):
            if not (row.is_over and row.asked.keeps_answer) or row.error is not None:
                continue
            if len(row.said) < 2:  # the last token may not be read, so there is nothing
                continue
            branch = row.read(self._cache.row(number))
            mx.async_eval(branch.cache.arrays)  # now, or the batch's cache would stay in memory
            store.keep(branch)

    def step(self) -> None:
        """Decode one token of every row, or one round of drafts, and add them to the answers."""
        if self._rounds and self._rounds.are_wanted(self.rows):
            if self._queued is not None:
                self._rounds.begin(self.rows, self._queued, self._logits)
                self._queued = None
            self._rounds.round(self.rows, self._cache)
        else:
            self._step()
            if self._rounds:
                self._rounds.plain(self.rows)
        self._steps += 1
        if self._steps % CLEAR_EVERY == 0:
            mx.clear_cache()

    def _step(self) -> None:
        """Queue the next token of every row, then read the last ones that are not read."""
        rows, cache, drawn, drawn_from = self.rows, self._cache, self._queued, self._logits
        is_guided = any(row.guide for row in rows)
        begin, windows = cache.offset, cache.windows if is_guided else []
        tokens = mx.array([row.last for row in rows], mx.uint32) if drawn is None else drawn.tokens
        logits, outputs = self._decode.tapped(tokens, cache)
        if drawn is not None and is_guided:
            mx.async_eval(logits, cache.arrays)
            if not _add(rows, drawn, drawn_from):  # once in an answer at most, where a row closes
                cache.back(begin, windows)
                tokens = mx.array([row.last for row in rows], mx.uint32)
                logits, outputs = self._decode.tapped(tokens, cache)
            drawn = None
        for number, row in enumerate(rows):
            if row.drafter and row.drafter.taps:
                row.drafter.read([output[number : number + 1, None] for output in outputs])
        self._queued, self._logits = _drawn(rows, logits), logits
        mx.async_eval(self._queued, cache.arrays)
        if drawn is not None:
            _add(rows, drawn, drawn_from)

    def _grouped(self, rows: list[Row]) -> list[Row]:
        """Give rows of equal sampling one sampler, unless they draft; return them side by side."""
        if len(rows) > self._most_drafted:
            for row in rows:
                row.drafter = None
        if any(row.drafter for row in rows):
            from .verifying import VerifyingSampler

            groups = [[row] for row in rows]
            kind = VerifyingSampler
        else:
            groups = list(_by_settings(rows))
            kind = Sampler
        logprobs = any(row.options.logprobs for row in rows)
        for group in groups:
            if not group[0].drafter:
                sampler = kind.joined([(row.sampler, [row.place]) for row in group])
                for place, row in enumerate(group):
                    row.sampler, row.place = sampler, place
            group[0].sampler.logprobs = logprobs  # one array for all rows
        return [row for group in groups for row in group]


def _by_settings(rows: Sequence[Row]) -> Iterable[list[Row]]:
    """Return the rows that one sampler can serve together."""
    groups: dict[object, list[Row]] = {}
    for row in rows:
        key = row.asked.sampling, tuple(map(id, row.options.logits_processors))
        groups.setdefault(key, []).append(row)
    return groups.values()


def _joined(places: Sequence[tuple[Cache, int]]) -> Cache:
    """Return the cache of rows, of each of which the cache and its number there are known."""
    parts = [list(same) for _, same in groupby(places, key=lambda place: id(place[0]))]
    return Cache.joined([Rows(part[0][0], [number for _, number in part]) for part in parts])


def _drawn(rows: Sequence[Row], logits: mx.array) -> Drawn:
    """Draw the next token of every row.

    Args:
        rows: those of one sampler side by side.
        logits: (B, vocab_size).
    """
    drawn, begin = list[Drawn](), 0
    for _, same in groupby(rows, key=lambda row: id(row.sampler)):
        group = list(same)
        end = begin + len(group)
        own = logits if len(group) == len(rows) else logits[begin:end]
        drawn.append(group[0].sampler(own, _masks(group, logits.shape[1])))
        begin = end
    return Drawn.joined(drawn) if len(drawn) > 1 else drawn[0]


def _masks(rows: Sequence[Row], vocabulary: int) -> np.ndarray | None:
    """Return (B, vocabulary) bool, the tokens that may come next; None if all may."""
    masks = [row.mask() for row in rows]
    if all(mask is None for mask in masks):
        return None
    free = np.ones(vocabulary, bool)
    return np.stack([free if mask is None else mask for mask in masks])


def _add(rows: Sequence[Row], drawn: Drawn, drawn_from: mx.array) -> bool:
    """Read tokens and add them to the answers; return whether no constraint has replaced one."""
    tokens = [Token(*found) for found in drawn.read()]
    for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        row.add(token, drawn_from, place)
    # Rows that are over count, too: what the cache has read of them may be kept.
    return all(row.last == token.id for row, token in zip(rows, tokens, strict=True))
