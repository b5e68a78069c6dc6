"""Sampling the tokens of a draft all at once, each as it would be sampled after those before it.

A draft is accepted as far as it holds what the sampler says, with the random state, the penalty and
the logits processors of each position. So the answer is, token for token, the one without a draft,
whatever the draft and the sampling are. By induction: if all tokens before a row are those of the
answer, the row's logits, penalty and random state are those of plain decoding, and so is what it
says. Nothing after a row that differs from the draft is used.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..model.device_ops import traced
from .sampling import Sampler, chooser, logprobs_of, mask_of, penalize

NO_TOKEN = 2**32 - 1  # larger than any id


class Verified(NamedTuple):
    """What the sampler says to a draft of G tokens.

    Attributes:
        tokens: (G + 1,) uint32, after the last token, and after each token of the draft.
        accepted: uint32 scalar, how many tokens of the draft these agree with, from the first on.
        logprobs: (G + 1,) float32 of the tokens; None if not requested.
        seen: (G + 1, vocab_size) bool, the ids that occurred up to each; None without a penalty.
    """

    tokens: mx.array
    accepted: mx.array
    logprobs: mx.array | None
    seen: mx.array | None


class VerifyingSampler(Sampler):
    """A sampler of one row that also samples the positions of drafts."""

    def verify(
        self, logits: mx.array, draft: Sequence[int], allowed: np.ndarray | None = None
    ) -> Verified:
        """Sample after the last token and after every token of a draft; `keep` must follow.

        Args:
            logits: (G + 1, vocab_size).
            draft: G ids.
            allowed: (G + 1, vocab_size) bool, the tokens to draw from; None allows all.
        """
        if self.processors:
            logits = self._rows_processed(logits, draft)
        whole = logits
        if allowed is not None:
            logits = mx.where(mx.array(allowed), logits, -math.inf)
        sampling, penalizes = self.sampling, self.sampling.repetition_penalty != 1
        draws = sampling.temperature > 0
        choose = chooser(draws, penalizes, sampling.top_k, sampling.top_p < 1, sampling.min_p > 0)
        numbers = (self._keys[0].peek(logits.shape[0]), *self._numbers) if draws else ()
        seen = None
        if penalizes:
            if self._seen is None:
                self._seen = mask_of(self._prompts, (1, logits.shape[1]))
            before = self._seen | _occurred(draft, logits.shape[1])
            tokens, seen = choose(logits, before, self._penalty, *numbers)
        else:
            tokens = choose(logits, *numbers)
        # The place of the first difference. What no token equals stands behind the draft.
        accepted = mx.argmin(tokens == mx.array([*draft, NO_TOKEN], mx.uint32))
        told = logprobs_of(whole, tokens) if self.logprobs else None
        return Verified(tokens, accepted, told, seen)

    def keep(self, verified: Verified, tokens: Sequence[int]) -> None:
        """Go on after the tokens that were accepted and the one that the sampler said next.

        Args:
            verified: from `verify`.
            tokens: these tokens, as the host has read them.
        """
        if self.sampling.temperature > 0:
            self._keys[0].skip(len(tokens))
        if verified.seen is not None:
            self._seen = verified.seen[len(tokens) - 1 : len(tokens)]
        if self.processors:
            self._said[0] = mx.concatenate([self._said[0], mx.array(list(tokens), mx.uint32)])

    def anticipate(
        self, logits: mx.array, verified: Verified | None
    ) -> tuple[mx.array, mx.array | None]:
        """Change a drafter's logits as the sampler will change the model's, with the same noise.

        The penalty is that of the first row. Top-k, top-p and min-p are left out: a token that they
        exclude is seldom drawn, and a wrong draft costs no more than time.

        Args:
            logits: (G, vocab_size), for the tokens to come.
            verified: of the round before, which `keep` has not seen yet; None if there is none.

        Returns:
            (G, vocab_size), the largest of which is likely to be drawn, and the factor that
            anything else must have that is added to the logits; None for 1.
        """
        seen, used = self._seen, mx.array(0)
        if verified is not None:
            used = verified.accepted + 1
            seen = None if verified.seen is None else verified.seen[verified.accepted][None]
        if seen is not None:
            logits = penalize(logits, seen, self._penalty)
        if self.sampling.temperature == 0:
            return logits, None
        keys, temperature = self._keys[0].peek(logits.shape[0], after=used), self._numbers[0]
        return _warmed(logits, keys, temperature), mx.array(1 / self.sampling.temperature)

    def _rows_processed(self, logits: mx.array, draft: Sequence[int]) -> mx.array:
        rows: list[mx.array] = []
        for number in range(logits.shape[0]):
            row, said = logits[number : number + 1], self._said[0]
            if number:
                said = mx.concatenate([said, mx.array(list(draft[:number]), mx.uint32)])
            for process in self.processors:
                row = process(said, row)
            rows.append(row)
        return mx.concatenate(rows)


@traced
def _warmed(logits: mx.array, keys: mx.array, temperature: mx.array) -> mx.array:
    """Divide (G, vocab_size) logits by the temperature and add what `sampling.draw` adds."""

    def gumbel(key: mx.array) -> mx.array:
        return mx.random.gumbel(logits.shape[1:], key=key)

    return logits.astype(mx.float32) / temperature + mx.vmap(gumbel)(keys)


def _occurred(draft: Sequence[int], vocabulary: int) -> mx.array:
    """Return (G + 1, vocabulary) bool: which ids stand before each position of a draft."""
    if not draft:
        return mx.zeros((1, vocabulary), mx.bool_)
    ids = mx.array(list(draft))[:, None]
    hits = (mx.arange(vocabulary) == ids).astype(mx.uint8)
    return mx.concatenate([mx.zeros((1, vocabulary), mx.bool_), mx.cummax(hits, axis=0) > 0])
