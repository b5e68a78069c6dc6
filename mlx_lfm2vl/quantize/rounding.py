"""Rounding one matrix so that its layer's outputs change least, rather than its weights.

Knows a matrix, the sums XᵀX and Xᵀ(Y - XWᵀ) of the inputs X it will see and the outputs Y it
should give, and an affine scheme: group by group of its inputs, a weight is code * scale + bias.
Does not know the network, the samples, or files; `learned_rounding` has the first two.

Three steps lower the error ||Y - XWqᵀ||²: `_search` starts with scales and biases,
`_nearest_plane` chooses all codes (GPTQ, arXiv 2210.17323), and `_sweep` improves scales, biases
and codes in turn (QuantEase, arXiv 2309.01885). `learn_packed` guarantees that the result is never
worse than rounding to nearest on the inputs it was given: it compares the two. Codes are chosen for
the scales and biases as stored, in their final type.

Arrays here are transposed, (K, rows): K inputs, rows outputs, and K / group size = G groups.
"""

import mlx.core as mx
import numpy as np

from ..checkpoint.packing import Scheme

Packed = tuple[mx.array, ...]  # what mx.quantize returns: weight, scales and, if affine, biases

DAMPING = 0.01  # added to the diagonal of a Hessian, as a share of its mean
COLUMNS = 128  # rounded between two large matrix products
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of a group's range, where searches for a scale start
FITS = 3  # of scales to codes and back, from each start
SWEEPS = 2  # over all scales and codes once every code is chosen
SMALLEST_SCALE = 1e-7  # a float16 still holds it


def learn_packed(
    layer_weight: mx.array, hessian: np.ndarray, gap: np.ndarray, scheme: Scheme, dtype: mx.Dtype
) -> Packed:
    """Quantize one weight, for the inputs that it will see.

    Args:
        layer_weight: (rows, K).
        hessian: XᵀX of the inputs X, (K, K) float32.
        gap: Xᵀ(Y - XWᵀ), (K, rows) float32: what the outputs lack to be the wanted Y.
        scheme: affine.
        dtype: of scales and biases.

    Returns:
        (rows, K * bits / 32) uint32, and twice (rows, G) of `dtype`.
    """
    weight = np.array(layer_weight.astype(mx.float32)).T
    damped = hessian.copy()
    damped[np.diag_indices_from(damped)] += DAMPING * np.diag(hessian).mean()
    target = weight + np.linalg.solve(damped, gap)  # the best weight, were it not quantized
    scales, biases = _search(target, np.diag(damped), scheme, dtype)
    codes = _nearest_plane(target, damped, scales, biases, scheme)
    for _ in range(SWEEPS):
        codes, scales, biases = _sweep(target, damped, codes, scales, biases, scheme, dtype)
    learned = (
        mx.array(pack(codes.T.astype(np.uint8), scheme.bits)),
        mx.array(scales.T).astype(dtype),
        mx.array(biases.T).astype(dtype),
    )
    nearest = round_to_nearest(layer_weight.astype(dtype), scheme)

    def error(packed: Packed) -> float:
        """||Y - XWqᵀ||², less what it is for W itself."""
        change = weight - np.array(restored(packed, scheme, mx.float32)).T
        return float(np.sum(change * (hessian @ change + 2 * gap)))

    return min(nearest, learned, key=error)


def round_to_nearest(weight: mx.array, scheme: Scheme) -> Packed:
    """Quantize one weight without looking at any inputs; scales have the type of the weight."""
    return tuple(mx.quantize(weight, scheme.group_size, scheme.bits, scheme.mode))


def restored(packed: Packed, scheme: Scheme, dtype: mx.Dtype) -> mx.array:
    """The weight that a product with packed arrays computes with, (rows, K)."""
    weight, *rest = packed
    if scheme.mode == "affine":  # a product never rounds the weight to the type of the scales
        rest = [array.astype(mx.float32) for array in rest]
    group_size, bits, mode = scheme.group_size, scheme.bits, scheme.mode
    return mx.dequantize(
        weight, *rest, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32
    ).astype(dtype)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """(..., K) uint8 codes below 2**bits -> (..., K * bits / 32) uint32 as MLX packs them.

    That is one stream of bits, which begins with the lowest bit of the first code.
    """
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    stream = stream.reshape(*codes.shape[:-1], -1)
    return np.packbits(stream, axis=-1, bitorder="little").view(np.uint32)


def _search(
    weight: np.ndarray, importance: np.ndarray, scheme: Scheme, dtype: mx.Dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases of small squared error, weighted by the importance of the inputs.

    Args:
        weight: (K, rows).
        importance: (K,).

    Returns:
        Twice (G, rows).
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
            # The line through (code, weight) by weighted least squares.
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
    """Codes by GPTQ (arXiv 2210.17323) in the form of Babai's nearest plane (arXiv 2507.18553).

    With A = CCᵀ the error eᵀAe is the sum of squares of Cᵀe, and the last element of e alone
    decides the last term. Rounding starts there: each term is made as small as possible with the
    later elements fixed. The order puts the inputs that matter most last, so that they are
    rounded first.

    Args:
        target: (K, rows).
        damped: A, (K, K).
        scales: (G, rows).
        biases: (G, rows).

    Returns:
        (K, rows) float32, whole numbers from 0.
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
    """Better codes, scales and biases: each is improved with all others fixed, group by group.

    Coordinate descent on the error that `_nearest_plane` takes greedily, as QuantEase does for
    codes (arXiv 2309.01885). Shapes as there.
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
    """Scale and bias of one group that lower the error, with its codes fixed.

    Changing them by s and b changes the weights by s * code + b, and the error is lowest where

        [codeᵀ A code   codeᵀ A 1] [s]   [codeᵀ pull]
        [   1ᵀ A code      1ᵀ A 1] [b] = [   1ᵀ pull]

    which Cramer's rule solves, for each row of the matrix on its own.

    Args:
        code: (group size, rows).
        scale: (rows,).
        bias: (rows,).
        local: A, (group size, group size): the group's block of the Hessian.
        pull: (group size, rows): minus half the error's gradient, by weight.
        dtype: in which scale and bias must be exact.

    Returns:
        Scale and bias, (rows,), the old ones where the new ones are no better; and the change of
        the weights, (group size, rows).
    """
    local_code = local @ code
    code_code, code_one, one_one = (code * local_code).sum(0), local_code.sum(0), local.sum()
    code_pull, one_pull = (code * pull).sum(0), pull.sum(0)
    determinant = code_code * one_one - code_one * code_one
    determinant = np.maximum(determinant, 1e-6 * code_code * one_one + 1e-30)  # 0: codes all equal
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
    """Codes of one group that lower the error, one after the other, with scale and bias fixed.

    Args:
        levels: the largest code. Others as of `_fitted_line`.

    Returns:
        The codes, and the change of the weights; both (group size, rows).
    """
    pull, new, step = pull.copy(), np.empty_like(code), np.empty_like(code)
    for i in range(len(code)):
        new[i] = np.clip(np.rint(code[i] + pull[i] / (local[i, i] * scale)), 0, levels)
        step[i] = (new[i] - code[i]) * scale
        pull[i + 1 :] -= np.outer(local[i, i + 1 :], step[i])
    return new, step


def _stored(x: mx.array | np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """The float32 values of numbers that went through a type."""
    return np.array(mx.array(x).astype(dtype).astype(mx.float32))
