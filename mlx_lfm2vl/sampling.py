"""Drawing the next token: temperature, top-k, top-p, min-p and a penalty for repetition."""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from .config import Sampling

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
    draw = _greedy if sampling.temperature == 0 else _make_draw(sampling, seed)
    if sampling.repetition_penalty == 1:
        return draw
    return _with_penalty(draw, sampling.repetition_penalty, prompt_ids)


def _greedy(logits: mx.array) -> mx.array:
    return mx.argmax(logits, axis=-1)


def _make_draw(sampling: Sampling, seed: int) -> Sampler:
    key = mx.random.key(seed)

    def draw(logits: mx.array) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        logits = logits.astype(mx.float32)
        # From the most likely token on: a tiny temperature must not overflow into nonsense.
        logits = (logits - mx.max(logits, axis=-1, keepdims=True)) / sampling.temperature
        if 0 < sampling.top_k < logits.shape[-1]:
            logits = keep_top_k(logits, sampling.top_k)
        if sampling.top_p < 1:
            logits = keep_top_p(logits, sampling.top_p)
        if sampling.min_p > 0:
            logits = keep_min_p(logits, sampling.min_p)
        return mx.random.categorical(logits, key=now)

    return draw


def keep_top_k(logits: mx.array, top_k: int) -> mx.array:
    """Rule out all but the `top_k` most likely tokens (and ties with the last of them)."""
    weakest = mx.min(mx.topk(logits, top_k, axis=-1), axis=-1, keepdims=True)
    return mx.where(logits < weakest, -math.inf, logits)


def keep_top_p(logits: mx.array, top_p: float) -> mx.array:
    """Keep the smallest set of likely tokens whose probabilities reach `top_p` together."""
    descending = -mx.sort(-logits, axis=-1)
    probabilities = mx.softmax(descending, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    reached = before < max(top_p, 1e-6)  # the first token always stays
    weakest = mx.min(mx.where(reached, descending, math.inf), axis=-1, keepdims=True)
    return mx.where(logits < weakest, -math.inf, logits)


def keep_min_p(logits: mx.array, min_p: float) -> mx.array:
    """Rule out tokens less likely than `min_p` times the most likely one."""
    weakest = mx.max(logits, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logits < weakest, -math.inf, logits)


def _with_penalty(draw: Sampler, penalty: float, prompt_ids: Sequence[int]) -> Sampler:
    """Make every token of prompt and answer less likely. Follows the CTRL paper (1909.05858)."""
    seen: mx.array | None = None

    def penalised(logits: mx.array) -> mx.array:
        nonlocal seen
        if seen is None:
            counted = np.zeros(logits.shape[-1], np.int32)
            counted[list(prompt_ids)] = 1
            seen = mx.array(counted)[None] > 0
        logits = logits.astype(mx.float32)  # a penalty of 1.05 is below half precision's reach
        lowered = mx.where(logits > 0, logits / penalty, logits * penalty)
        token = draw(mx.where(seen, lowered, logits))
        seen = seen | (mx.arange(logits.shape[-1]) == token[:, None])
        return token

    return penalised
