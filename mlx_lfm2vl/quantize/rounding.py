"""Quantize one matrix so that its layer's outputs, rather than its weights, change least.

Knows: a matrix W, the sums XᵀX and Xᵀ(Y - XWᵀ) over the inputs X that it will see and the outputs Y
that it should give, and a scheme. In the affine mode a weight is code * scale + bias, and all
weights in a group of inputs share scale and bias. `float_rounding` knows the other modes.
Does not know: files, the network, or the samples; `learned_rounding` knows the last two.
Guarantees: the result is never worse than rounding to nearest on the given inputs, because
`learn_packed` compares the two. Codes are chosen for scales and biases in the type they are
stored in.

Three steps lower the error ||Y - XWqᵀ||². `_search` finds scales and biases, `_nearest_plane`
chooses all codes (GPTQ, arXiv 2210.17323), and `_sweep` improves scales, biases and codes in turn
(coordinate descent, as QuantEase does for codes, arXiv 2309.01885).

Arrays here are transposed, (K, rows): K inputs, rows outputs, and K / group size = G groups.
"""

import mlx.core as mx
import numpy as np

from ..checkpoint.packing import Scheme
from .float_rounding import learn_floats

Packed = tuple[mx.array, ...]  # what mx.quantize returns: codes, scales and, if affine, biases

DAMPING = 0.01  # added to the diagonal of the Hessian, as a share of the diagonal's mean
COLUMNS = 128  # inputs rounded between two large matrix products
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # shares of a group's range at which a search starts
FITS = 3  # least-squares fits of scale and bias from each start
SWEEPS = 2  # passes of `_sweep` after all codes are chosen
SMALLEST_SCALE = 1e-7  # still representable in float16


def learn_packed(
    layer_weight: mx.array, hessian: np.ndarray, gap: np.ndarray, scheme: Scheme, dtype: mx.Dtype
) -> Packed:
    """Quantize one weight for the inputs that it will see.

    Args:
        layer_weight: (rows, K).
        hessian: XᵀX of the inputs X, (K, K) float32.
        gap: Xᵀ(Y - XWᵀ), (K, rows) float32. It is zero where the layer already gives the wanted Y.
        scheme: how to quantize it.
        dtype: of the stored scales and biases in the affine mode.

    Returns:
        Packed codes, (rows, K * bits / 32) uint32; and (rows, G) scales and biases, both `dtype`,
        or scales alone, uint8.
    """
    weight = np.array(layer_weight.astype(mx.float32)).T
    damped = hessian.copy()
    damped[np.diag_indices_from(damped)] += DAMPING * np.diag(hessian).mean()
    target = weight + np.linalg.solve(damped, gap)  # the best weight without quantization
    nearest = round_to_nearest(layer_weight.astype(dtype), scheme)
    if scheme.mode == "affine":
        learned = _learn_affine(target, damped, scheme, dtype)
    else:
        codes, scales = learn_floats(target, damped, np.array(nearest[1]).T, scheme)
        learned = mx.array(pack(codes.T, scheme.bits)), mx.array(scales.T)

    def error(packed: Packed) -> float:
        """||Y - XWqᵀ||² - ||Y - XWᵀ||², which needs only the two sums."""
        change = weight - np.array(restored(packed, scheme, mx.float32)).T
        return float(np.sum(change * (hessian @ change + 2 * gap)))

    return min(nearest, learned, key=error)


def _learn_affine(
    target: np.ndarray, damped: np.ndarray, scheme: Scheme, dtype: mx.Dtype
) -> Packed:
    scales, biases = _search(target, np.diag(damped), scheme, dtype)
    codes = _nearest_plane(target, damped, scales, biases, scheme)
    for _ in range(SWEEPS):
        codes, scales, biases = _sweep(target, damped, codes, scales, biases, scheme, dtype)
    return (
        mx.array(pack(codes.T.astype(np.uint8), scheme.bits)),
        mx.array(scales.T).astype(dtype),
        mx.array(biases.T).astype(dtype),
    )


def round_to_nearest(weight: mx.array, scheme: Scheme) -> Packed:
    """Quantize one weight regardless of its inputs; the scales have the weight's type."""
    return tuple(mx.quantize(weight, scheme.group_size, scheme.bits, scheme.mode))


def restored(packed: Packed, scheme: Scheme, dtype: mx.Dtype) -> mx.array:
    """The weight, (rows, K), that a quantized matrix product multiplies with."""
    weight, *rest = packed
    if scheme.mode == "affine":  # the product does not round weights to the type of the scales
        rest = [array.astype(mx.float32) for array in rest]
    group_size, bits, mode = scheme.group_size, scheme.bits, scheme.mode
    return mx.dequantize(
        weight, *rest, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32
    ).astype(dtype)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes as MLX does: one stream of bits that starts with the first code's lowest bit.

    Args:
        codes: (..., K) uint8 below 2**bits.

    Returns:
        (..., K * bits / 32) uint32.
    """
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    stream = stream.reshape(*codes.shape[:-1], -1)
    return np.packbits(stream, axis=-1, bitorder="little").view(np.uint32)


def _search(
    weight: np.ndarray, importance: np.ndarray, scheme: Scheme, dtype: mx.Dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Find scales and biases with a small squared error, weighted by each input's importance.

    Args:
        weight: (K, rows).
        importance: (K,).

    Returns:
        Scales and biases, both (G, rows).
    """
    levels = 2**scheme.bits - 1
    x = mx.array(weight).reshape(-1, scheme.group_size, weight.shape[1])
    share = mx.array(importance).reshape(-1, scheme.group_size, 1)
    share = share / share.sum(axis=1, keepdims=True)
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    best = [mx.full(low.shape, mx.inf), low, low]  # error, scale, bias
    for shrink in SHRINKS:
        scale = mx.maximum(shrink * (high - low) / levels, SMALLEST_SCALE)
        bias = low + (1 - shrink) / 2 * (high - low)
        for _ in range(FITS + 1):
            codes = mx.clip(mx.round((x - bias) / scale), 0, levels)
            error = (share * mx.square(x - codes * scale - bias)).sum(axis=1, keepdims=True)
            found = (error, scale, bias)
            better = error < best[0]
            best = [mx.where(better, new, old) for new, old in zip(found, best, strict=True)]
            # Fit the line through (code, weight) by weighted least squares.
            mean_x = (share * x).sum(axis=1, keepdims=True)
            mean = (share * codes).sum(axis=1, keepdims=True)
            spread = (share * mx.square(codes - mean)).sum(axis=1, keepdims=True)
            slope = (share * (codes - mean) * (x - mean_x)).sum(axis=1, keepdims=True)
            slope = slope / mx.maximum(spread, 1e-12)
            scale = mx.where(slope > SMALLEST_SCALE, slope, scale)
            bias = mean_x - scale * mean
        mx.eval(best)
    return _stored(best[1].squeeze(1), dtype), _stored(best[2].squeeze(1), dtype)


def _nearest_plane(
    target: np.ndarray,
    damped: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    scheme: Scheme,
) -> np.ndarray:
    """Choose codes by GPTQ (arXiv 2210.17323), as Babai's nearest plane algorithm (2507.18553).

    With A = CCᵀ, C lower triangular, the error eᵀAe is the squared length of Cᵀe. Its last term
    depends on the last element of e alone. Rounding therefore starts at the end and makes each
    term as small as possible with the later elements fixed. Inputs are sorted by importance, so
    that the most important ones come last and are rounded first.

    Args:
        target: (K, rows).
        damped: A, (K, K).
        scales: (G, rows).
        biases: (G, rows).

    Returns:
        (K, rows) float32, integers from 0 to 2**bits - 1.
    """
    levels = 2**scheme.bits - 1
    order = np.argsort(np.diag(damped), kind="stable")
    factor = np.linalg.cholesky(damped[np.ix_(order, order)])
    factor /= np.diag(factor).copy()
    wanted, errors, codes = target[order], np.empty_like(target), np.empty_like(target)
    for stop in range(len(order), 0, -COLUMNS):
        start = max(0, stop - COLUMNS)
        for i in reversed(range(start, stop)):
            column, group = order[i], order[i] // scheme.group_size
            code = np.rint((wanted[i] - biases[group]) / scales[group])
            codes[column] = code = np.clip(code, 0, levels)
            errors[i] = target[column] - (code * scales[group] + biases[group])
            wanted[start:i] += np.outer(factor[i, start:i], errors[i])
        wanted[:start] += factor[start:stop, :start].T @ errors[start:stop]
    return codes


def _sweep(
    target: np.ndarray,
    damped: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    scheme: Scheme,
    dtype: mx.Dtype,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Improve codes, scales and biases group by group, each with all others fixed.

    This is coordinate descent on the error that `_nearest_plane` minimizes greedily, as QuantEase
    does for codes (arXiv 2309.01885). The shapes are those of `_nearest_plane`.
    """
    size = scheme.group_size
    errors = target - codes * scales.repeat(size, axis=0) - biases.repeat(size, axis=0)
    groups = []
    for group, (scale, bias) in enumerate(zip(scales, biases, strict=True)):
        span = slice(group * size, (group + 1) * size)
        local, code = damped[span, span], codes[span]
        pull = damped[span] @ errors
        scale, bias, step = _fitted_line(code, scale, bias, local, pull, dtype)
        errors[span] -= step
        code, step = _better_codes(code, scale, local, pull - local @ step, 2**scheme.bits - 1)
        errors[span] -= step
        groups.append((code, scale, bias))
    new_codes, new_scales, new_biases = zip(*groups, strict=True)
    return np.concatenate(new_codes), np.stack(new_scales), np.stack(new_biases)


def _fitted_line(
    code: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    local: np.ndarray,
    pull: np.ndarray,
    dtype: mx.Dtype,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit scale and bias of one group to lower the error, with its codes fixed.

    Changing them by s and b changes the weights by s * code + b. The error is lowest where

        [codeᵀ A code   codeᵀ A 1] [s]   [codeᵀ pull]
        [   1ᵀ A code      1ᵀ A 1] [b] = [   1ᵀ pull]

    Cramer's rule solves this for each row of the matrix separately.

    Args:
        code: (group size, rows).
        scale: (rows,).
        bias: (rows,).
        local: A, (group size, group size), the group's block of the Hessian.
        pull: (group size, rows), minus half the gradient of the error with respect to the weights.
        dtype: in which scale and bias are stored.

    Returns:
        Scale and bias, both (rows,), unchanged in rows where the new values are no better; and the
        change of the weights, (group size, rows).
    """
    local_code = local @ code
    code_code, code_one, one_one = (code * local_code).sum(0), local_code.sum(0), local.sum()
    code_pull, one_pull = (code * pull).sum(0), pull.sum(0)
    determinant = code_code * one_one - code_one * code_one
    # Equal codes make it 0.
    determinant = np.maximum(determinant, 1e-6 * code_code * one_one + 1e-30)
    new_scale = scale + (one_one * code_pull - code_one * one_pull) / determinant
    new_bias = bias + (code_code * one_pull - code_one * code_pull) / determinant
    scale_step, bias_step = _stored(new_scale, dtype) - scale, _stored(new_bias, dtype) - bias
    step = code * scale_step + bias_step
    better = (step * (local @ step - 2 * pull)).sum(0) < 0
    better &= np.abs(scale + scale_step) > SMALLEST_SCALE
    return scale + better * scale_step, bias + better * bias_step, better * step


def _better_codes(
    code: np.ndarray, scale: np.ndarray, local: np.ndarray, pull: np.ndarray, levels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the codes of one group again, one after the other, with scale and bias fixed.

    Args:
        levels: the largest code. The other arguments are those of `_fitted_line`.

    Returns:
        The codes and the change of the weights, both (group size, rows).
    """
    pull, new, step = pull.copy(), np.empty_like(code), np.empty_like(code)
    for i in range(len(code)):
        new[i] = np.clip(np.rint(code[i] + pull[i] / (local[i, i] * scale)), 0, levels)
        step[i] = (new[i] - code[i]) * scale
        pull[i + 1 :] -= np.outer(local[i, i + 1 :], step[i])
    return new, step


def _stored(x: mx.array | np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """Round numbers to a type and return them as float32."""
    return np.array(mx.array(x).astype(dtype).astype(mx.float32))
