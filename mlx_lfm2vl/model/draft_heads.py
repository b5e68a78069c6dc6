"""The heads of a DSpark drafter: from the rows of a block to a chain of tokens.

- The Markov head adds to the scores of each row what is likely after the token before. That token
  is known only when the row before is decided.
- So that the rows need not wait for each other, each row is first decided for every candidate that
  may stand before it. Following these decisions from the anchor on then gives the chain.
- The confidence head says how likely a proposal is accepted if those before it are.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checkpoint.drafter_config import DrafterConfig
from .device_ops import fused

# The pair bias of all tokens reads the whole Markov table once per proposal. Of larger vocabularies
# it is therefore computed for the best logit of each of this many groups only, the candidates. The
# best token of all is always among them, and a draft may be any.
GROUPS = 64
SMALL_VOCABULARY = 512


class MarkovHead(nn.Module):
    """A low-rank table of how likely each token follows each other."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(config.vocab_size, config.markov_rank)
        self.markov_w2 = nn.Linear(config.markov_rank, config.vocab_size, bias=False)

    def __call__(
        self, scores: mx.array, anchor: mx.array, scale: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """Choose the best token of each row, given the one before.

        Args:
            scores: (G, vocab_size).
            anchor: uint32 scalar, the token before the first row.
            scale: factor of what this head adds; None for 1.

        Returns:
            (G,) uint32 tokens, and the (G, rank) codes of the tokens before them.
        """
        if scores.shape[1] <= SMALL_VOCABULARY:
            return self._one_by_one(scores, anchor, scale)
        scores, ids = _candidates(scores)
        before = mx.concatenate([mx.broadcast_to(anchor, (1, ids.shape[1])), ids[:-1]])
        codes = self.markov_w1(before)  # (G, N, rank)
        bias = codes @ self.markov_w2.weight[ids].swapaxes(1, 2)  # (G, N before, N)
        biased = _biased(scores[:, None], bias, scale)
        last = mx.argmax(biased, axis=-1)  # (G, N), the best candidate after each of those before
        rows = np.arange(ids.shape[0], dtype=np.int32)
        reach = 1
        while reach < len(rows):  # doubles how many rows each decision spans
            # The first rows already span all those before them: their decisions are all equal, and
            # stay what they are whatever they follow.
            last = mx.take_along_axis(last, last[mx.array((rows - reach) % len(rows))], axis=1)
            reach *= 2
        place = last[:, :1]
        tokens = mx.take_along_axis(ids, place, axis=1)[:, 0]
        previous = place[mx.array((rows - 1) % len(rows))]  # of the first row it may be any
        codes = mx.take_along_axis(codes, previous[..., None], axis=1)[:, 0]
        return tokens, codes

    def _one_by_one(
        self, scores: mx.array, anchor: mx.array, scale: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """Do the same among all tokens, each row when the one before is decided."""
        tokens, codes = list[mx.array](), [self.markov_w1(anchor)]
        for row in range(scores.shape[0]):
            bias = self.markov_w2(codes[-1])
            tokens.append(mx.argmax(_biased(scores[row], bias, scale)))
            codes.append(self.markov_w1(tokens[-1]))
        return mx.stack(tokens), mx.stack(codes[:-1])


class ConfidenceHead(nn.Module):
    """One number per row, from its state and the token before."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.hidden_size + config.markov_rank, 1)

    def __call__(self, states: mx.array, codes: mx.array) -> mx.array:
        """(G, C) states and (G, rank) codes of the tokens before -> (G,) float32 from 0 to 1."""
        of_states, of_codes = mx.split(self.proj.weight[0], [states.shape[1]])
        return _sigmoid_of_sum(states @ of_states, codes @ of_codes, self.proj.bias)


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
