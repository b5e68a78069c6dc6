"""The heads of a DSpark drafter: from the rows of a block to a chain of tokens.

- The Markov head adds to the scores of each row what is likely after the token before. That token
  is known only when the row before is decided.
- So that the rows need not wait for each other, each row is decided for every candidate that may
  stand before it. The host, which reads these decisions, follows them from the anchor on. Where the
  vocabulary is small, the rows do wait, and each has one candidate.
- The confidence head says how likely a proposal is accepted if those before it are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checkpoint.drafter_config import DrafterConfig
from .device_ops import fused

# The pair bias of all tokens reads the whole Markov table once per proposal. Of larger vocabularies
# it is therefore computed for the best logit of each of this many groups only, the candidates. The
# best token of all is always among them, and a draft may be any.
GROUPS = 64
SMALL_VOCABULARY = 512  # of which all tokens are compared


@dataclass(frozen=True)
class Decisions:
    """What follows each token that may stand before a row of a block. G rows, N candidates each.

    Attributes:
        ids: (G, N) uint32, the candidates of each row.
        best: (G, N) uint32, which candidate of a row follows each candidate of the row before. In
            the first row, which follows the anchor, all are equal.
        confidence: (G, N) float32, how likely that one is accepted if those before it are; None
            without a confidence head.
    """

    ids: mx.array
    best: mx.array
    confidence: mx.array | None

    @property
    def numbers(self) -> mx.array:
        """Everything as int32, bit by bit, so that the host reads it with other integers."""
        parts = [self.ids, self.best, *([] if self.confidence is None else [self.confidence])]
        return mx.concatenate([part.view(mx.int32).flatten() for part in parts])


def chain_of(numbers: Sequence[int], rows: int, parts: int) -> tuple[list[int], list[float]]:
    """Follow decisions from the anchor on.

    Args:
        numbers: of `Decisions`, as the host has read them.
        rows: G.
        parts: 3 with confidences, else 2.

    Returns:
        G tokens, and the confidence of each; none if there are no confidences.
    """
    ids, best, *sure = np.array(numbers, np.int32).reshape(parts, rows, -1)
    place, tokens, confidence = 0, list[int](), list[float]()
    for row in range(rows):
        confidence += [float(values[row, place]) for values in (x.view(np.float32) for x in sure)]
        place = best[row, place]
        tokens.append(int(ids[row, place]))
    return tokens, confidence


class MarkovHead(nn.Module):
    """A low-rank table of how likely each token follows each other."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)

    def __call__(
        self, scores: mx.array, anchor: mx.array, scale: mx.array | None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Choose the best token of each row, for every candidate of the row before.

        Args:
            scores: (G, vocab_size).
            anchor: uint32 scalar, the token before the first row.
            scale: factor of what this head adds; None for 1.

        Returns:
            `ids` and `best` of `Decisions`, and the (G, N, rank) codes of the tokens before.
        """
        if scores.shape[1] <= SMALL_VOCABULARY:
            return self._one_by_one(scores, anchor, scale)
        scores, ids = _candidates(scores)
        before = mx.concatenate([mx.broadcast_to(anchor, (1, ids.shape[1])), ids[:-1]])
        codes = self.markov_w1(before)
        bias = codes @ self.markov_w2.weight[ids].swapaxes(1, 2)  # (G, N before, N)
        return ids, mx.argmax(_biased(scores[:, None], bias, scale), axis=-1), codes

    def _one_by_one(
        self, scores: mx.array, anchor: mx.array, scale: mx.array | None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Do the same for one candidate, the best token after those chosen before."""
        tokens, codes = list[mx.array](), [self.markov_w1(anchor[None])]
        for row in mx.split(scores, scores.shape[0]):
            bias = self.markov_w2(codes[-1])
            tokens.append(mx.argmax(_biased(row, bias, scale), axis=-1))
            codes.append(self.markov_w1(tokens[-1]))
        ids = mx.stack(tokens)
        return ids, mx.zeros_like(ids), mx.stack(codes[:-1])


class ConfidenceHead(nn.Module):
    """One number per row and token before it, from the row's state and that token."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size + config.markov_rank, 1)

    def __call__(self, states: mx.array, codes: mx.array) -> mx.array:
        """(G, C) states and (G, N, rank) codes of tokens -> (G, N) float32 from 0 to 1."""
        of_states, of_codes = mx.split(self.proj.weight[0], [states.shape[1]])
        return _sigmoid_of_sum((states @ of_states)[:, None], codes @ of_codes, self.proj.bias)


def _candidates(scores: mx.array) -> tuple[mx.array, mx.array]:
    """Return scores and ids of the best token of each group, (G, GROUPS) each."""
    rows, vocabulary = scores.shape
    if left := -vocabulary % GROUPS:
        scores = mx.pad(scores, [(0, 0), (0, left)], constant_values=-math.inf)
    grouped = scores.reshape(rows, -1, GROUPS)  # token g + i * GROUPS is in g
    members = mx.argmax(grouped, axis=1)  # (G, GROUPS)
    best = mx.take_along_axis(grouped, members[:, None], axis=1)[:, 0]
    return best, _ids_of(members, mx.array(np.arange(GROUPS, dtype=np.uint32)))


@fused
def _ids_of(members: mx.array, groups: mx.array) -> mx.array:
    return members * GROUPS + groups


def _biased(scores: mx.array, bias: mx.array, scale: mx.array | None) -> mx.array:
    return _sum(scores, bias) if scale is None else _sum_by(scores, bias, scale)


@fused
def _sum(scores: mx.array, bias: mx.array) -> mx.array:
    return scores.astype(mx.float32) + bias.astype(mx.float32)


@fused
def _sum_by(scores: mx.array, bias: mx.array, scale: mx.array) -> mx.array:
    return scores.astype(mx.float32) + bias.astype(mx.float32) * scale


@fused
def _sigmoid_of_sum(x: mx.array, y: mx.array, bias: mx.array) -> mx.array:
    return mx.sigmoid(x.astype(mx.float32) + y.astype(mx.float32) + bias.astype(mx.float32))
