"""Drawing the next token: temperature, top-k, top-p, min-p and a penalty for repetition."""

import math
from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from .config import Sampling
from .kernels import traced

KEYS = 512  # random states made at a time

Sampler = Callable[[mx.array], mx.array]


def make_sampler(sampling: Sampling, prompt_ids: Sequence[int], seed: int) -> Sampler:
    """Build a function from logits to tokens.

    The order is that of transformers: penalty, temperature, top-k, top-p, min-p, draw. Nothing
    in it waits for the device.

    Args:
        sampling: the settings.
        prompt_ids: ids the repetition penalty already counts; the sampler adds its own.
        seed: makes the draws repeatable.

    Returns:
        A function from (1, vocab_size) logits to a (1,) token. It keeps state: one per answer.
    """
    keys = _random_keys(seed)
    draws, penalises = sampling.temperature > 0, sampling.repetition_penalty != 1
    seen: list[mx.array] = []  # one mask, made when the size of the vocabulary is known

    @traced
    def choose(
        logits: mx.array, seen: list[mx.array], key: list[mx.array]
    ) -> tuple[mx.array, list[mx.array]]:
        if seen:
            logits = penalise(logits, seen[0], sampling.repetition_penalty)
        token = draw(logits, sampling, key[0]) if key else mx.argmax(logits, axis=-1)
        if seen:
            seen = [seen[0] | (mx.arange(logits.shape[-1]) == token[:, None])]
        return token, seen

    def sampler(logits: mx.array) -> mx.array:
        nonlocal seen
        if penalises and not seen:
            counted = np.zeros((1, logits.shape[-1]), np.uint8)
            counted[0, list(prompt_ids)] = 1
            seen = [mx.array(counted) > 0]
        token, seen = choose(logits, seen, [next(keys)] if draws else [])
        return token

    return sampler


def penalise(logits: mx.array, seen: mx.array, penalty: float) -> mx.array:
    """Make tokens less likely that were seen. Follows the CTRL paper (1909.05858).

    Args:
        logits: (B, vocab_size).
        seen: (B, vocab_size) bool.
        penalty: above 1 to make them less likely.
    """
    logits = logits.astype(mx.float32)  # a penalty of 1.05 is below half precision's reach
    lowered = mx.where(logits > 0, logits / penalty, logits * penalty)
    return mx.where(seen, lowered, logits)


def draw(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    """Draw tokens, (B,), from (B, vocab_size) logits with a random key.

    The largest of the logits with Gumbel noise is a draw from their softmax.
    """
    logits = logits.astype(mx.float32)
    # From the most likely token on: a tiny temperature must not overflow into nonsense.
    logits = (logits - mx.max(logits, axis=-1, keepdims=True)) / sampling.temperature
    noisy = logits + mx.random.gumbel(logits.shape, key=key)
    for limit in limits(logits, sampling):  # what is equal to one stays
        noisy = mx.where(logits < limit, -math.inf, noisy)
    return mx.argmax(noisy, axis=-1)


def limits(logits: mx.array, sampling: Sampling) -> list[mx.array | float]:
    """What logits must reach, each of (B, 1) or a number, to be drawn at all.

    Args:
        logits: (B, vocab_size), divided by the temperature, the largest of each row 0.
        sampling: the settings.
    """
    found: list[mx.array | float] = []
    strongest = logits
    if 0 < sampling.top_k < logits.shape[-1]:
        strongest = mx.topk(logits, sampling.top_k, axis=-1)
        found.append(mx.min(strongest, axis=-1, keepdims=True))
    if sampling.top_p < 1:  # the fewest tokens whose probabilities reach it together
        descending = -mx.sort(-strongest, axis=-1)
        probabilities = mx.softmax(descending, axis=-1, precise=True)
        before = mx.cumsum(probabilities, axis=-1) - probabilities
        reached = before < max(sampling.top_p, 1e-6)  # the first token always stays
        found.append(mx.min(mx.where(reached, descending, math.inf), axis=-1, keepdims=True))
    if sampling.min_p > 0:  # times the probability of the most likely
        found.append(math.log(sampling.min_p))
    return found


def _random_keys(seed: int) -> Iterator[mx.array]:
    """Independent random states without end; one launch for many of them."""
    key = mx.random.key(seed)
    while True:
        *keys, key = mx.random.split(key, KEYS)
        yield from keys
