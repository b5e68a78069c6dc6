"""Sampling: from logits to tokens, by temperature, top-k, top-p, min-p and a repetition penalty.

- The order is that of transformers: logits processors, penalty, what a constraint excludes,
  temperature, top-k, top-p, min-p, draw.
- A `Sampler` serves the rows of a batch. For each row it keeps the random state, the ids seen so
  far if there is a penalty, and all tokens if there are logits processors.
- It knows token ids and logits. It knows nothing of the model, text, end tokens or `max_tokens`.
- A row's tokens do not depend on the other rows of its batch.
- The same settings, prompt, seed and logits give the same tokens.
- A token whose logit equals the limit of top-k, top-p or min-p can still be drawn, so ties may
  leave more than `top_k` tokens.
- Log-probabilities are those after the processors and before the penalty, temperature and what a
  constraint excludes.
- Sampling does not wait for the device. Only `Drawn.read` and logits processors of a caller may.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import mlx.core as mx
import numpy as np

from ..model.device_ops import traced
from ..options import Sampling

if TYPE_CHECKING:
    from ..options import LogitsProcessor

KEYS = 512  # random states made at a time
COLDEST = 1e-30  # lowest temperature; a GPU may round smaller ones to 0


class Drawn(NamedTuple):
    """Tokens drawn for the rows of a batch.

    Attributes:
        tokens: (B,) uint32 ids.
        logprobs: (B,) float32 log-probabilities of the tokens, after the logits processors and
            before the penalty and temperature; None if not requested.
    """

    tokens: mx.array
    logprobs: mx.array | None

    def rows(self, numbers: mx.array) -> "Drawn":
        """Return some of the rows.

        Args:
            numbers: int32 indices of the rows.
        """
        logprobs = None if self.logprobs is None else self.logprobs[numbers]
        return Drawn(self.tokens[numbers], logprobs)

    @classmethod
    def joined(cls, parts: "Sequence[Drawn]") -> "Drawn":
        """Concatenate the rows of all parts.

        If only some have log-probabilities, the others get zeros.
        """
        tokens = mx.concatenate([part.tokens for part in parts])
        if all(part.logprobs is None for part in parts):
            return cls(tokens, None)
        logprobs = [
            mx.zeros(part.tokens.shape) if part.logprobs is None else part.logprobs
            for part in parts
        ]
        return cls(tokens, mx.concatenate(logprobs))

    def read(self) -> list[tuple[int, float | None]]:
        """Wait for the device and return the token and the log-probability of each row."""
        tokens = cast(list[int], self.tokens.tolist())
        logprobs = [None] * len(tokens) if self.logprobs is None else self.logprobs.tolist()
        return list(zip(tokens, cast(list[float | None], logprobs), strict=True))


class Sampler:
    """Draws a token for each row of a batch from its logits."""

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
            sampling: temperature, limits and penalty of all rows.
            prompts: ids of each row's prompt. The sampler appends the tokens that it draws.
            seeds: of each row's random state.
            processors: applied to each row's logits first, in this order.
            logprobs: whether to report the tokens' log-probabilities.
        """
        self.sampling, self.processors, self.logprobs = sampling, processors, logprobs
        self._prompts = prompts
        # (L,) ids of each row's prompt and answer, kept only for the processors.
        self._said = [mx.array(list(ids), mx.uint32) for ids in prompts] if processors else []
        self._seen: mx.array | None = None  # (B, vocab_size) bool, made once that size is known
        self._keys = [RandomKeys(seed) for seed in seeds]
        # Arrays, because Python numbers would be compiled into a separate kernel for each value.
        self._penalty = mx.array(sampling.repetition_penalty)
        self._numbers = (
            mx.array(max(sampling.temperature, COLDEST)),
            mx.array(max(sampling.top_p, 1e-6)),
            mx.array(math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf),
        )

    @classmethod
    def joined(cls, parts: Sequence[tuple["Sampler", Sequence[int]]]) -> "Sampler":
        """Return a sampler of some rows of other samplers, which must not draw for them again.

        Args:
            parts: samplers of equal settings, each with the indices of its rows, in the order of
                the new batch. With a penalty, each must have drawn before.
        """
        first = parts[0][0]
        joined = cls(first.sampling, [], [], processors=first.processors, logprobs=first.logprobs)
        joined._keys = [sampler._keys[row] for sampler, rows in parts for row in rows]
        if first.processors:
            joined._said = [sampler._said[row] for sampler, rows in parts for row in rows]
        seen = [(sampler._seen, rows) for sampler, rows in parts]
        kept = [mask[mx.array(list(rows))] for mask, rows in seen if mask is not None]
        joined._seen = mx.concatenate(kept) if kept else None
        return joined

    def __call__(self, logits: mx.array, allowed: np.ndarray | None = None) -> Drawn:
        """Draw a token for each row.

        Args:
            logits: (B, vocab_size).
            allowed: (B, vocab_size) bool, the tokens to draw from; None allows all.
        """
        if self.processors:
            logits = self._processed(logits)
        # The penalty leaves -inf as it is, so this is as good as excluding tokens after it.
        tokens = self._draw(
            logits if allowed is None else mx.where(mx.array(allowed), logits, -math.inf)
        )
        if self.processors:
            self._said = [
                mx.concatenate([said, tokens[row : row + 1]]) for row, said in enumerate(self._said)
            ]
        return Drawn(tokens, logprobs_of(logits, tokens) if self.logprobs else None)

    def skip(self, tokens: Sequence[int]) -> None:
        """Go on as if the only row had drawn these tokens; it must have no logits processors."""
        if self.sampling.temperature > 0:
            self._keys[0].skip(len(tokens))
        if self._seen is not None:
            self._seen = self._seen | mask_of([tokens], self._seen.shape)
        else:
            self._prompts = [[*self._prompts[0], *tokens]]

    def _processed(self, logits: mx.array) -> mx.array:
        rows: list[mx.array] = []
        for number, said in enumerate(self._said):
            row = logits[number : number + 1]
            for process in self.processors:
                row = process(said, row)
            rows.append(row)
        return mx.concatenate(rows) if len(rows) > 1 else rows[0]

    def _draw(self, logits: mx.array) -> mx.array:
        sampling, penalizes = self.sampling, self.sampling.repetition_penalty != 1
        draws = sampling.temperature > 0
        choose = chooser(draws, penalizes, sampling.top_k, sampling.top_p < 1, sampling.min_p > 0)
        numbers: tuple[mx.array, ...] = ()
        if draws:
            keys = [row.take() for row in self._keys]
            numbers = (mx.stack(keys) if len(keys) > 1 else keys[0][None], *self._numbers)
        if not penalizes:
            return choose(logits, *numbers)
        if self._seen is None:
            self._seen = mask_of(self._prompts, logits.shape)
        tokens, self._seen = choose(logits, self._seen, self._penalty, *numbers)
        return tokens


def draw_greedily(logits: mx.array) -> Drawn:
    """Return what a greedy `Sampler` without penalty draws from (B, vocab_size) logits."""
    return Drawn(greedy(logits), None)


def greedy(logits: mx.array) -> mx.array:
    """Return the (B,) uint32 ids of the most likely tokens, given (B, vocab_size) logits."""
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
    """Draw from the softmax of logits, restricted by top-k, top-p and min-p.

    Follows the Gumbel-max trick: the largest sum of logit and Gumbel noise is a draw from the
    softmax.

    Args:
        logits: (B, vocab_size).
        keys: (B, 2) uint32 random states.
        temperature: scalar above 0.
        top_p: scalar; see `limits`.
        least: scalar log of `min_p`, the lowest allowed probability relative to the largest.
        top_k: see `limits`.
        has_top_p: whether `top_p` applies.
        has_min_p: whether `least` applies.

    Returns:
        (B,) uint32 ids.
    """
    # With the largest logit at 0, a tiny temperature sends others to -inf, but none to +inf.
    logits = logits.astype(mx.float32)
    logits = (logits - mx.max(logits, axis=-1, keepdims=True)) / temperature
    found = limits(logits, top_k, top_p if has_top_p else None)

    def gumbel(key: mx.array) -> mx.array:
        return mx.random.gumbel(logits.shape[1:], key=key)

    noise = mx.vmap(gumbel)(keys)
    noisy = logits + noise
    for limit in [*found, *([least] if has_min_p else [])]:  # logits equal to a limit stay
        noisy = mx.where(logits < limit, -math.inf, noisy)
    return mx.argmax(noisy, axis=-1)


@lru_cache(maxsize=16)
def chooser(
    draws: bool, penalizes: bool, top_k: int, has_top_p: bool, has_min_p: bool
) -> Callable[..., Any]:
    """Return the chain from logits to tokens as one traced function.

    Returns:
        Without a penalty, (logits, *numbers) -> tokens. With one, (logits, seen, penalty, *numbers)
        -> (tokens, seen). `numbers` are the keys, temperature, top_p and least of `draw`; there are
        none if decoding is greedy.
    """
    pick = partial(draw, top_k=top_k, has_top_p=has_top_p, has_min_p=has_min_p) if draws else greedy

    def penalized(
        logits: mx.array, seen: mx.array, penalty: mx.array, *numbers: mx.array
    ) -> tuple[mx.array, mx.array]:
        tokens = pick(penalize(logits, seen, penalty), *numbers)
        return tokens, seen | (mx.arange(logits.shape[-1]) == tokens[:, None])

    return traced(penalized if penalizes else pick)


def penalize(logits: mx.array, seen: mx.array, penalty: mx.array) -> mx.array:
    """Make tokens that were seen less likely. Follows the CTRL paper (arXiv 1909.05858).

    Args:
        logits: (B, vocab_size).
        seen: (B, vocab_size) bool, the ids in each row's prompt and answer.
        penalty: scalar; above 1 makes these tokens less likely.

    Returns:
        (B, vocab_size) float32 logits.
    """
    logits = logits.astype(mx.float32)  # half precision is too coarse for a penalty of 1.05
    lowered = mx.where(logits > 0, logits / penalty, logits * penalty)
    return mx.where(seen, lowered, logits)


def limits(logits: mx.array, top_k: int, top_p: mx.array | None) -> list[mx.array]:
    """Return the lowest logits that top-k and top-p allow.

    Args:
        logits: (B, vocab_size), divided by the temperature.
        top_k: keeps this many of the most likely tokens; 0 keeps all.
        top_p: keeps the fewest most likely tokens whose probabilities sum to at least this; None
            keeps all.

    Returns:
        A (B, 1) array for each of the two that applies.
    """
    found: list[mx.array] = []
    strongest = logits
    if 0 < top_k < logits.shape[-1]:
        strongest = mx.topk(logits, top_k, axis=-1)
        found.append(mx.min(strongest, axis=-1, keepdims=True))
    if top_p is not None:
        descending = -mx.sort(-strongest, axis=-1)
        probabilities = mx.softmax(descending, axis=-1, precise=True)
        before = mx.cumsum(probabilities, axis=-1) - probabilities
        reached = before < top_p  # always true of the first token
        found.append(mx.min(mx.where(reached, descending, math.inf), axis=-1, keepdims=True))
    return found


def logprobs_of(logits: mx.array, tokens: mx.array) -> mx.array:
    """Return the log-probabilities of given tokens.

    Args:
        logits: (B, vocab_size).
        tokens: (B,) ids.

    Returns:
        (B,) float32, natural logarithm.
    """
    logits = logits.astype(mx.float32)
    chosen = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return chosen - mx.logsumexp(logits, axis=-1)


def mask_of(rows: Sequence[Sequence[int]], shape: Sequence[int]) -> mx.array:
    """Return (B, vocab_size) bool: which ids each row contains."""
    mask = np.zeros(shape, np.uint8)
    for row, ids in zip(mask, rows, strict=True):
        row[list(ids)] = 1
    return mx.array(mask) > 0


class RandomKeys:
    """Independent random states, one for each token of an answer.

    They are made `KEYS` at a time, to save kernel launches.
    """

    def __init__(self, seed: int) -> None:
        self._source = mx.random.key(seed)
        self._made, self._used = mx.zeros((0, 2), mx.uint32), 0

    def take(self) -> mx.array:
        """Return the next state, (2,) uint32, which is then used up."""
        self._make(1)
        self._used += 1
        return self._made[self._used - 1 : self._used].reshape(2)  # an index would be a gather

    def peek(self, count: int, after: mx.array | int = 0) -> mx.array:
        """Return (count, 2) states to come, of which none is used up.

        Args:
            count: number of states.
            after: how many to leave out before them, at most `KEYS`; the host need not know it.
        """
        self._make(count + (after if isinstance(after, int) else KEYS))
        begin = self._used + after
        if isinstance(begin, int):
            return self._made[begin : begin + count]
        return self._made[begin + mx.array(np.arange(count, dtype=np.uint32))]

    def skip(self, count: int) -> None:
        """Use up the next states."""
        self._make(count)
        self._used += count

    def _make(self, count: int) -> None:
        """See to it that so many states are there."""
        while self._made.shape[0] < self._used + count:
            more = mx.random.split(self._source, KEYS)
            left = self._made[self._used :]
            self._made = mx.concatenate([left, more[:-1]]) if left.shape[0] else more[:-1]
            self._source, self._used = more[-1], 0
