"""Reading what the device has computed: one wait for all that the host needs of a round."""

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from .loop import Token
from .sampling import Drawn
from .verifying import Verified


def arrays_of(drawn: Drawn | Verified | None) -> list[mx.array]:
    """Return what the host reads of tokens."""
    if drawn is None:
        return []
    return [drawn.tokens] if drawn.logprobs is None else [drawn.tokens, drawn.logprobs]


def tokens_of(drawn: Drawn | Verified | None, found: Iterator[np.ndarray]) -> list[Token]:
    """Return the tokens whose `arrays_of` come next among those that were read."""
    if drawn is None:
        return []
    ids = next(found).tolist()
    logprobs = [None] * len(ids) if drawn.logprobs is None else next(found).tolist()
    return [Token(*pair) for pair in zip(ids, logprobs, strict=True)]


def read_together(arrays: Sequence[mx.array]) -> Iterator[np.ndarray]:
    """Wait for the device once; yield the values of int or float32 vectors."""
    if not arrays:
        return
    # Floats are read bit by bit, so that one array holds everything.
    bits = [x.view(mx.int32) if x.dtype == mx.float32 else x.astype(mx.int32) for x in arrays]
    joined = np.array(mx.concatenate(bits).tolist(), np.int32)
    ends = np.cumsum([array.size for array in arrays])[:-1]
    for array, values in zip(arrays, np.split(joined, ends), strict=True):
        yield values.view(np.float32) if array.dtype == mx.float32 else values
