"""Drawing the next token: temperature, top-k, top-p, min-p and a penalty for repetition."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import mlx.core as mx
import numpy as np

from ..model.device_ops import traced
from ..options import Sampling

KEYS = 512  # random states made at a time
COLDEST = 1e-30  # temperature: below, a GPU may take it for 0

Arrays = list[mx.array]


class Sampler:
    """From the logits of a batch to its tokens.

    The order is that of transformers: penalty, temperature, top-k, top-p, min-p, draw. Nothing
    in it waits for the device. It keeps what each row has seen, and each row's random state, so
    that a row's tokens do not depend on its neighbours.
    """

    def __init__(
        self, sampling: Sampling, prompts: Sequence[Sequence[int]], seeds: Sequence[int]
    ) -> None:
        """
        Args:
            sampling: the settings.
            prompts: per row the ids that the penalty counts already; the sampler adds its own.
            seeds: per row what makes its draws repeatable.
        """
        self.sampling = sampling
        self._prompts = prompts
        self._seen: mx.array | None = None  # (B, vocab_size) bool; made when that is known
        self._keys = [_random_keys(seed) for seed in seeds]
        # As arrays: numbers would become part of a kernel, which is compiled anew for each.
        self._numbers = [
            mx.array(sampling.repetition_penalty),
            mx.array(max(sampling.temperature, COLDEST)),
            mx.array(max(sampling.top_p, 1e-6)),
            mx.array(math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf),
        ]

    @classmethod
    def joined(cls, parts: Sequence[tuple["Sampler", Sequence[int]]]) -> "Sampler":
        """Chosen rows of samplers of the same settings, in this order, that have drawn before."""
        joined = cls(parts[0][0].sampling, [], [])
        joined._keys = [sampler._keys[row] for sampler, rows in parts for row in rows]
        seen = [(sampler._seen, rows) for sampler, rows in parts]
        kept = [mask[mx.array(list(rows))] for mask, rows in seen if mask is not None]
        joined._seen = mx.concatenate(kept) if kept else None
        return joined

    def __call__(self, logits: mx.array) -> mx.array:
        """(B, vocab_size) logits -> (B,) tokens."""
        sampling = self.sampling
        if sampling.repetition_penalty != 1 and self._seen is None:
            counted = np.zeros(logits.shape, np.uint8)
            for row, ids in zip(counted, self._prompts, strict=True):
                row[list(ids)] = 1
            self._seen = mx.array(counted) > 0
        seen = [] if self._seen is None else [self._seen]
        keys = [_as_rows([next(row) for row in self._keys])] if sampling.temperature > 0 else []
        choose = _make_choose(sampling.top_k, sampling.top_p < 1, sampling.min_p > 0)
        token, seen = choose(logits, seen, keys, self._numbers)
        self._seen = seen[0] if seen else None
        return token


def make_sampler(sampling: Sampling, prompt_ids: Sequence[int], seed: int) -> Sampler:
    """A sampler of one row; see `Sampler`."""
    return Sampler(sampling, [prompt_ids], [seed])


@lru_cache(maxsize=16)
def _make_choose(top_k: int, has_top_p: bool, has_min_p: bool) -> Callable[..., tuple]:
    """The function from logits, masks and keys, where there are any, to tokens and masks."""

    def choose(logits: mx.array, seen: Arrays, keys: Arrays, numbers: Arrays) -> tuple:
        penalty, temperature, top_p, least = numbers
        if seen:
            logits = penalise(logits, seen[0], penalty)
        if keys:
            # From the most likely token on: a tiny temperature must not overflow into nonsense.
            logits = logits.astype(mx.float32)
            logits = (logits - mx.max(logits, axis=-1, keepdims=True)) / temperature
            found = limits(logits, top_k, top_p if has_top_p else None)
            # The largest of the logits with Gumbel noise is a draw from their softmax.
            noisy = logits + mx.vmap(lambda key: mx.random.gumbel(logits.shape[1:], key=key))(
                keys[0]
            )
            for limit in [*found, *([least] if has_min_p else [])]:  # what is equal to one stays
                noisy = mx.where(logits < limit, -math.inf, noisy)
            token = mx.argmax(noisy, axis=-1)
        else:
            token = mx.argmax(logits, axis=-1)
        if seen:
            seen = [seen[0] | (mx.arange(logits.shape[-1]) == token[:, None])]
        return token, seen

    return traced(choose)


def penalise(logits: mx.array, seen: mx.array, penalty: mx.array) -> mx.array:
    """Make tokens less likely that were seen. Follows the CTRL paper (1909.05858).

    Args:
        logits: (B, vocab_size).
        seen: (B, vocab_size) bool.
        penalty: above 1 to make them less likely.
    """
    logits = logits.astype(mx.float32)  # a penalty of 1.05 is below half precision's reach
    lowered = mx.where(logits > 0, logits / penalty, logits * penalty)
    return mx.where(seen, lowered, logits)


def limits(logits: mx.array, top_k: int, top_p: mx.array | None) -> list[mx.array]:
    """What logits must reach, (B, 1) each, to be drawn at all.

    Args:
        logits: (B, vocab_size), divided by the temperature.
        top_k: how many of the likeliest stay; 0 for all.
        top_p: the fewest likeliest stay whose probabilities reach this together; None for all.
    """
    found = []
    strongest = logits
    if 0 < top_k < logits.shape[-1]:
        strongest = mx.topk(logits, top_k, axis=-1)
        found.append(mx.min(strongest, axis=-1, keepdims=True))
    if top_p is not None:
        descending = -mx.sort(-strongest, axis=-1)
        probabilities = mx.softmax(descending, axis=-1, precise=True)
        before = mx.cumsum(probabilities, axis=-1) - probabilities
        reached = before < top_p  # the first token always stays
        found.append(mx.min(mx.where(reached, descending, math.inf), axis=-1, keepdims=True))
    return found


def _as_rows(keys: Arrays) -> mx.array:
    return mx.stack(keys) if len(keys) > 1 else keys[0][None]


def _random_keys(seed: int) -> Iterator[mx.array]:
    """Independent random states without end; one launch for many of them."""
    key = mx.random.key(seed)
    while True:
        *keys, key = mx.random.split(key, KEYS)
        yield from keys
