"""From logits to tokens: temperature, top-k, top-p, min-p and a penalty for repetition.

- The order is that of transformers: logits processors, penalty, temperature, top-k, top-p, min-p,
  draw.
- A `Sampler` serves the rows of a batch. It keeps what each row has seen and its random state, so
  that a row's tokens do not depend on its neighbours.
- Nothing in it waits for the device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import mlx.core as mx
import numpy as np

from ..model.device_ops import traced
from ..options import Sampling

if TYPE_CHECKING:
    from ..options import LogitsProcessor

KEYS = 512  # random states made at a time
COLDEST = 1e-30  # temperature: below, a GPU may take it for 0


class Drawn(NamedTuple):
    """What a sampler gives for the rows of a batch.

    Attributes:
        tokens: (B,) ids.
        logprobs: (B,) float32 log-probabilities of these, behind the processors and before
            everything else; None if nobody asked.
    """

    tokens: mx.array
    logprobs: mx.array | None

    def rows(self, numbers: mx.array) -> "Drawn":
        """Chosen rows, int32."""
        logprobs = None if self.logprobs is None else self.logprobs[numbers]
        return Drawn(self.tokens[numbers], logprobs)

    @classmethod
    def joined(cls, parts: "Sequence[Drawn]") -> "Drawn":
        """The rows of all parts."""
        logprobs = [part.logprobs for part in parts if part.logprobs is not None]
        tokens = mx.concatenate([part.tokens for part in parts])
        return cls(tokens, mx.concatenate(logprobs) if logprobs else None)

    def read(self) -> list[tuple[int, float | None]]:
        """Wait for the device; the token and the log-probability of every row."""
        tokens = cast(list[int], self.tokens.tolist())
        logprobs = [None] * len(tokens) if self.logprobs is None else self.logprobs.tolist()
        return list(zip(tokens, cast(list[float | None], logprobs), strict=True))


class Sampler:
    """From the logits of a batch to its tokens."""

    def __init__(
        self,
        sampling: Sampling,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        processors: "Sequence[LogitsProcessor]" = (),
        logprobs: bool = False,
    ) -> None:
        """
        Args:
            sampling: the settings.
            prompts: per row the ids that were said before; the sampler adds its own.
            seeds: per row what makes its draws repeatable.
            processors: change the logits of each row first.
            logprobs: tell how likely the tokens were.
        """
        self.sampling, self.processors, self.logprobs = sampling, processors, logprobs
        self._prompts = prompts
        # (L,) ids of prompt and answer of every row, where a processor wants to know them.
        self._said = [mx.array(list(ids), mx.uint32) for ids in prompts] if processors else []
        self._seen: mx.array | None = None  # (B, vocab_size) bool; made when that is known
        self._keys = [_random_keys(seed) for seed in seeds]
        # As arrays: numbers would become part of a kernel, which is compiled anew for each.
        self._penalty = mx.array(sampling.repetition_penalty)
        self._numbers = (
            mx.array(max(sampling.temperature, COLDEST)),
            mx.array(max(sampling.top_p, 1e-6)),
            mx.array(math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf),
        )

    @classmethod
    def joined(cls, parts: Sequence[tuple["Sampler", Sequence[int]]]) -> "Sampler":
        """Chosen rows of samplers of the same settings, in this order, that have drawn before."""
        first = parts[0][0]
        joined = cls(first.sampling, [], [], processors=first.processors, logprobs=first.logprobs)
        joined._keys = [sampler._keys[row] for sampler, rows in parts for row in rows]
        if first.processors:
            joined._said = [sampler._said[row] for sampler, rows in parts for row in rows]
        seen = [(sampler._seen, rows) for sampler, rows in parts]
        kept = [mask[mx.array(list(rows))] for mask, rows in seen if mask is not None]
        joined._seen = mx.concatenate(kept) if kept else None
        return joined

    def __call__(self, logits: mx.array) -> Drawn:
        """Draw a token of every row from (B, vocab_size) logits."""
        if self.processors:
            logits = self._processed(logits)
        tokens = self._draw(logits)
        if self.processors:
            self._said = [
                mx.concatenate([said, tokens[row : row + 1]]) for row, said in enumerate(self._said)
            ]
        return Drawn(tokens, logprobs_of(logits, tokens) if self.logprobs else None)

    def _processed(self, logits: mx.array) -> mx.array:
        rows = []
        for number, said in enumerate(self._said):
            row = logits[number : number + 1]
            for process in self.processors:
                row = process(said, row)
            rows.append(row)
        return mx.concatenate(rows) if len(rows) > 1 else rows[0]

    def _draw(self, logits: mx.array) -> mx.array:
        sampling, penalises = self.sampling, self.sampling.repetition_penalty != 1
        draws = sampling.temperature > 0
        choose = _chooser(draws, penalises, sampling.top_k, sampling.top_p < 1, sampling.min_p > 0)
        numbers: tuple[mx.array, ...] = ()
        if draws:
            keys = [next(row) for row in self._keys]
            numbers = (mx.stack(keys) if len(keys) > 1 else keys[0][None], *self._numbers)
        if not penalises:
            return choose(logits, *numbers)
        if self._seen is None:
            self._seen = _mask(self._prompts, logits.shape)
        tokens, self._seen = choose(logits, self._seen, self._penalty, *numbers)
        return tokens


def draw_greedily(logits: mx.array) -> Drawn:
    """What a `Sampler` with plain greedy settings gives."""
    return Drawn(greedy(logits), None)


def greedy(logits: mx.array) -> mx.array:
    """(B, vocab_size) logits -> (B,) ids of the most likely tokens."""
    return mx.argmax(logits, axis=-1)


def draw(
    logits: mx.array,
    keys: mx.array,
    temperature: mx.array,
    top_p: mx.array,
    least: mx.array,
    *,
    top_k: int,
    has_top_p: bool,
    has_min_p: bool,
) -> mx.array:
    """Draw from what the limits leave of a softmax.

    Args:
        logits: (B, vocab_size).
        keys: (B, 2) random states.
        temperature: above 0.
        top_p: see `limits`.
        least: log of the smallest probability, as a share of the largest, that may be drawn.
        top_k: see `limits`.
        has_top_p: whether `top_p` counts.
        has_min_p: whether `least` counts.

    Returns:
        (B,) ids.
    """
    # From the most likely token on: a tiny temperature must not overflow into nonsense.
    logits = logits.astype(mx.float32)
    logits = (logits - mx.max(logits, axis=-1, keepdims=True)) / temperature
    found = limits(logits, top_k, top_p if has_top_p else None)
    # The largest of the logits with Gumbel noise is a draw from their softmax.
    noise = mx.vmap(lambda key: mx.random.gumbel(logits.shape[1:], key=key))(keys)
    noisy = logits + noise
    for limit in [*found, *([least] if has_min_p else [])]:  # what is equal to one stays
        noisy = mx.where(logits < limit, -math.inf, noisy)
    return mx.argmax(noisy, axis=-1)


@lru_cache(maxsize=16)
def _chooser(
    draws: bool, penalises: bool, top_k: int, has_top_p: bool, has_min_p: bool
) -> Callable[..., Any]:
    """The whole chain as one traced function.

    Returns:
        (logits, keys and numbers of `draw`, if it draws) -> tokens; with a penalty
        (logits, seen, penalty, the same) -> tokens, seen.
    """
    pick = partial(draw, top_k=top_k, has_top_p=has_top_p, has_min_p=has_min_p) if draws else greedy

    def penalised(
        logits: mx.array, seen: mx.array, penalty: mx.array, *numbers: mx.array
    ) -> tuple[mx.array, mx.array]:
        tokens = pick(penalise(logits, seen, penalty), *numbers)
        return tokens, seen | (mx.arange(logits.shape[-1]) == tokens[:, None])

    return traced(penalised if penalises else pick)


def penalise(logits: mx.array, seen: mx.array, penalty: mx.array) -> mx.array:
    """Make tokens less likely that were seen. Follows the CTRL paper (arXiv 1909.05858).

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


def logprobs_of(logits: mx.array, tokens: mx.array) -> mx.array:
    """Log-probabilities of chosen tokens.

    Args:
        logits: (B, vocab_size).
        tokens: (B,) ids.

    Returns:
        (B,) float32.
    """
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return chosen - mx.logsumexp(logits, axis=-1)


def _mask(rows: Sequence[Sequence[int]], shape: Sequence[int]) -> mx.array:
    """(B, vocab_size) bool: which ids each row holds."""
    mask = np.zeros(shape, np.uint8)
    for row, ids in zip(mask, rows, strict=True):
        row[list(ids)] = 1
    return mx.array(mask) > 0


def _random_keys(seed: int) -> Iterator[mx.array]:
    """Independent random states without end; one launch for many of them."""
    key = mx.random.key(seed)
    while True:
        *keys, key = mx.random.split(key, KEYS)
        yield from keys
