"""Attention for the encoder and the decoder: a fused kernel on a GPU, query blocks on a CPU."""

from functools import lru_cache
from typing import cast

import mlx.core as mx
import numpy as np

from .device_ops import GPU, exp, fused
from .key_values import Packed

FEW = 32  # queries whose scores a CPU computes at once
HIDDEN = -1e30  # added to the score of a key that a query does not see
BLOCK_BYTES = 4 * 2**20  # of scores per block: few enough to stay in a CPU's caches


class Visible:
    """The positions that each query of a step sees, for all layers.

    Attributes:
        mask: bool, broadcastable to (B, H, L, S).
    """

    def __init__(self, mask: mx.array) -> None:
        self.mask = mask
        self._hidden: dict[int, mx.array] = {}

    def hidden(self, sharing: int) -> mx.array:
        """Return what is added to scores whose rows are those of `sharing` heads, made once."""
        if sharing not in self._hidden:
            hidden = mx.where(self.mask, 0.0, HIDDEN)
            if hidden.ndim > 1 and hidden.shape[-2] > 1:
                hidden = mx.concatenate([hidden] * sharing, axis=-2)
            self._hidden[sharing] = hidden
        return self._hidden[sharing]


def attend(
    q: mx.array,
    k: mx.array | Packed,
    v: mx.array | Packed,
    scale: float,
    *,
    causal: bool,
    visible: Visible | None = None,
) -> mx.array:
    """Compute scaled dot-product attention with grouped heads.

    Args:
        q: (B, H, L, D) queries.
        k: (B, K, S, D) keys; K must divide H. They are quantized if the values are.
        v: (B, K, S, D) values.
        scale: factor on the scores.
        causal: the queries are the last L of the S positions, and none sees later positions.
        visible: the positions that a query sees; None for all. With it, causal is for L = 1 only.

    Returns:
        (B, H, L, D) in the dtype of `q`.
    """
    length = q.shape[2]
    assert visible is None or length == 1 or not causal
    if isinstance(k, Packed) and isinstance(v, Packed) and length == 1:
        return _attend_to_codes(q, k, v, scale, visible)
    k, v = (
        part.dequantized().astype(q.dtype) if isinstance(part, Packed) else part for part in (k, v)
    )
    if has_few_rows(q):
        return _attend_few(q, k, v, scale, causal, visible)
    if GPU or length == 1 or visible is not None or q.dtype != mx.float32:
        mask = "causal" if causal and length > 1 else visible and visible.mask
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return _attend_in_blocks(q * scale, k, v, causal)


def has_few_rows(x: mx.array) -> bool:
    """Return whether (B, H, L, D) are few rows on a CPU, as when a draft is verified.

    Starting operations then takes longer than computing, so the fewest operations are the fastest.
    """
    return not GPU and 1 < x.shape[2] <= FEW and x.dtype == mx.float32


def _attend_few(
    q: mx.array, k: mx.array, v: mx.array, scale: float, causal: bool, visible: Visible | None
) -> mx.array:
    """Compute attention of a few rows in few operations."""
    batch, heads, length, _ = q.shape
    groups, keys = k.shape[1], k.shape[2]
    sharing = heads // groups
    # The heads that share keys become the rows of one product.
    rows, turned = q.reshape(batch, groups, sharing * length, -1), k.swapaxes(-1, -2)
    if visible is not None:
        hidden = visible.hidden(sharing)
    elif causal:
        hidden = _later_hidden(length, keys, sharing)
    else:
        hidden = mx.array(0.0)
    scores = mx.addmm(hidden, rows, turned, alpha=scale)
    return (mx.softmax(scores, axis=-1) @ v).reshape(q.shape)


@lru_cache(maxsize=4)
def _later_hidden(length: int, keys: int, sharing: int) -> mx.array:
    """Return (sharing * length, keys), to add to scores; all layers of a step share it."""
    hidden = np.zeros((sharing, length, keys), np.float32)
    hidden[:, :, keys - length :] = np.triu(np.full((length, length), HIDDEN), 1)
    return mx.array(hidden.reshape(-1, keys))


def _attend_to_codes(
    q: mx.array, k: Packed, v: Packed, scale: float, visible: Visible | None
) -> mx.array:
    """Let one position attend to quantized keys and values without dequantizing them."""
    # The heads that share keys become the rows of one product, so the codes are read once.
    rows = q.reshape(q.shape[0], k.codes.shape[1], -1, q.shape[3])
    scores = k.product(_widened(rows, scale), transpose=True)
    if visible is not None:
        scores = mx.where(visible.mask, scores, -mx.inf)
    seen = v.product(mx.softmax(scores, axis=-1), transpose=False)
    return seen.astype(q.dtype).reshape(q.shape)


@fused
def _widened(x: mx.array, scale: float) -> mx.array:
    return x.astype(mx.float32) * scale


def _attend_in_blocks(q: mx.array, k: mx.array, v: mx.array, causal: bool) -> mx.array:
    """Compute attention in blocks of query rows.

    A CPU writes the scores to memory, so a block holds few of them, and none that are masked for
    all its rows.
    """
    batch, heads, length, dim = q.shape
    groups, keys = k.shape[1], k.shape[2]
    q = q.reshape(batch, groups, heads // groups, length, dim)
    k, v = k[:, :, None], v[:, :, None]
    step = max(16, BLOCK_BYTES // (batch * heads * keys * 4))
    blocks: list[mx.array] = []
    for start in range(0, length, step):
        rows = q[..., start : start + step, :]
        if blocks:  # run the blocks one by one, or the scores of many are in memory at once
            (rows,) = cast(list[mx.array], mx.depends([rows], [blocks[-1]]))
        end = keys - length + start + rows.shape[3] if causal else keys
        scores = rows @ k[..., :end, :].swapaxes(-1, -2)
        if causal:
            scores = scores + _hide_later(rows.shape[3], end)
        weights = exp(scores - mx.stop_gradient(scores.max(axis=-1, keepdims=True)))
        # Dividing after the product takes D divisions per row; dividing the weights would take S.
        blocks.append(weights @ v[..., :end, :] / weights.sum(axis=-1, keepdims=True))
    x = mx.concatenate(blocks, axis=3) if len(blocks) > 1 else blocks[0]
    return x.reshape(batch, heads, length, dim)


def _hide_later(rows: int, keys: int) -> mx.array:
    """Return a (rows, keys) causal mask to add to scores; the rows are the last of the keys."""
    places = mx.arange(keys - rows, keys)[:, None]
    return mx.where(mx.arange(keys) > places, HIDDEN, 0.0)
