"""Attention as both towers use it: one fused kernel on a GPU, blocks of query rows on a CPU."""

import mlx.core as mx

from .kernels import GPU

# A CPU writes the scores to memory. Blocks below 32 MB are reused instead of mapped anew, and short
# causal blocks leave out most of the half of the scores that is masked.
QUERY_ROWS, CAUSAL_QUERY_ROWS = (2**30, 2**30) if GPU else (512, 64)


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
    length, keys = q.shape[2], k.shape[2]
    mask = "causal" if causal and length > 1 else visible
    assert visible is None or length == 1
    step = CAUSAL_QUERY_ROWS if causal else QUERY_ROWS
    if length <= step:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    blocks = []
    for start in range(0, length, step):
        rows = q[:, :, start : start + step]
        seen = keys - length + start + rows.shape[2] if causal else keys
        blocks.append(
            mx.fast.scaled_dot_product_attention(
                rows, k[:, :, :seen], v[:, :, :seen], scale=scale, mask=mask
            )
        )
    return mx.concatenate(blocks, axis=2)
