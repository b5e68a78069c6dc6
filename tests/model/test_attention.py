"""Attention on a CPU: in blocks or for a few rows, it is MLX's own."""

import mlx.core as mx
import pytest
from conftest import relative_error

from mlx_lfm2vl.model.attention import Visible, attend
from mlx_lfm2vl.speed.launches import graph


def assert_close(actual, expected, tolerance):
    assert relative_error(actual, expected) < tolerance


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cached", [0, 5])
def test_attention_in_blocks_of_queries_equals_mlxs(cached, causal, monkeypatch):
    sizes = ((6, 40), (3, 40 + cached), (3, 40 + cached))
    q, k, v = (3 * mx.random.normal((2, heads, rows, 8)) for heads, rows in sizes)
    mask = "causal" if causal else None
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
    for size in (2**30, 17 * 2 * 6 * sizes[1][1] * 4, 1):
        monkeypatch.setattr("mlx_lfm2vl.model.attention.BLOCK_BYTES", size)
        assert_close(attend(q, k, v, 0.3, causal=causal), expected, 1e-6)


@pytest.mark.parametrize("shape", [None, (17,), (2, 1, 5, 17)])
def test_attention_of_few_queries_equals_mlxs(shape):
    q, k, v = (
        3 * mx.random.normal((2, heads, rows, 8)) for heads, rows in ((6, 5), (3, 17), (3, 17))
    )
    mask = None if shape is None else mx.random.bernoulli(0.7, shape, key=mx.random.key(2))
    limit, visible = ("causal", None) if mask is None else (mask, Visible(mask))
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=limit)
    assert_close(attend(q, k, v, 0.3, causal=shape is None, visible=visible), expected, 1e-6)


def test_all_layers_of_a_step_share_what_hides_positions(monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.model.attention.GPU", False)
    q, k = mx.random.normal((1, 4, 3, 8)), mx.random.normal((1, 2, 9, 8))
    visible = Visible(mx.random.bernoulli(0.7, (1, 1, 3, 9)))
    layers = [attend(q, k, k, 0.3, causal=False, visible=visible) for _ in range(2)]
    names = [node.name for node in graph(*layers)]
    assert (names.count("AddMM"), names.count("Select")) == (2, 1)


def test_attention_in_blocks_has_the_gradients_of_mlxs():
    q, k, v = (mx.random.normal((1, 4, 20, 8)) for _ in range(3))

    def ours(*parts):
        return (attend(*parts, 0.3, causal=True) ** 2).sum()

    def theirs(*parts):
        fused = mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask="causal")
        return (fused**2).sum()

    gradients = (mx.grad(function, argnums=[0, 1, 2])(q, k, v) for function in (ours, theirs))
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other, 1e-5)
