"""Attention as both towers use it: one fused kernel on a GPU, blocks of query rows on a CPU."""

import mlx.core as mx

from .device_ops import GPU, exp

BLOCK_BYTES = 4 * 2**20  # of scores that a CPU has under way: they stay in its caches


def attend(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    scale: float,
    *,
    causal: bool,
    visible: mx.array | None = None,
) -> mx.array:
    """Scaled dot-product attention with grouped heads.

    Args:
        q: (B, H, L, D).
        k: (B, K, S, D), K divides H.
        v: (B, K, S, D).
        scale: factor on the scores.
        causal: the queries are the last L of the S positions and see none after themselves.
        visible: (B, 1, 1, S) bool, which positions a single query sees; None for all.

    Returns:
        (B, H, L, D).
    """
    length = q.shape[2]
    assert visible is None or length == 1
    if GPU or length == 1 or q.dtype != mx.float32:
        mask = "causal" if causal and length > 1 else visible
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    return _attend_in_blocks(q * scale, k, v, causal)


def _attend_in_blocks(q: mx.array, k: mx.array, v: mx.array, causal: bool) -> mx.array:
    """A CPU writes the scores to memory: few at a time, and only those that are seen."""
    batch, heads, length, dim = q.shape
    groups, keys = k.shape[1], k.shape[2]
    q = q.reshape(batch, groups, heads // groups, length, dim)
    k, v = k[:, :, None], v[:, :, None]
    step = max(16, BLOCK_BYTES // (batch * heads * keys * 4))
    blocks = []
    for start in range(0, length, step):
        rows = q[..., start : start + step, :]
        if blocks:  # one after the other, or the scores of many are held
            rows = mx.depends([rows], [blocks[-1]])[0]
        end = keys - length + start + rows.shape[3] if causal else keys
        scores = rows @ k[..., :end, :].swapaxes(-1, -2)
        if causal:
            scores = scores + _hide_later(rows.shape[3], end)
        weights = exp(scores - mx.stop_gradient(scores.max(axis=-1, keepdims=True)))
        # Dividing afterwards takes D operations per row and not S.
        blocks.append(weights @ v[..., :end, :] / weights.sum(axis=-1, keepdims=True))
    x = mx.concatenate(blocks, axis=3) if len(blocks) > 1 else blocks[0]
    return x.reshape(batch, heads, length, dim)


def _hide_later(rows: int, keys: int) -> mx.array:
    """(rows, keys): 0 where a row, of the last ones of the keys, may look; else far below 0."""
    places = mx.arange(keys - rows, keys)[:, None]
    return mx.where(mx.arange(keys) > places, -1e30, 0.0)
