"""Quantization that learns from samples: codes and scales that keep what each layer puts out."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from ..checkpoint.names import CONNECTOR, DECODER_LAYERS, EMBEDDING, TOWER_LAYERS
from ..checkpoint.packing import Scheme
from ..errors import InputError
from ..model.cache import Place
from ..model.lfm2vl import Lfm2VL
from ..prompt.processor import Inputs

Packed = tuple[mx.array, ...]  # what mx.quantize returns: weight, scales and, if affine, biases
States = list[mx.array]  # hidden states, (1, L, C) of each view or each prompt

DAMPING = 0.01  # added to the diagonal of a Hessian, as a share of its mean
COLUMNS = 128  # rounded between two large matrix products
SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of a group's range, where searches for a scale start
FITS = 3  # of scales to codes and back, from each start
SWEEPS = 2  # over all scales and codes once every code is chosen
SMALLEST_SCALE = 1e-7  # a float16 still holds it


def learnable_paths(model: Lfm2VL, schemes: Mapping[str, Scheme]) -> list[str]:
    """Which layers `learn_rounding` can learn: linear ones of the decoder, the connector and the
    vision encoder with an affine scheme. All others are left to `mx.quantize`.
    """
    return [
        path
        for path, module in model.named_modules()
        if path in schemes
        and schemes[path].mode == "affine"
        and isinstance(module, nn.Linear)
        and path.startswith((TOWER_LAYERS, CONNECTOR, DECODER_LAYERS))
    ]


def learn_rounding(
    model: Lfm2VL,
    schemes: Mapping[str, Scheme],
    samples: Sequence[Inputs],
    *,
    dtype: mx.Dtype,
    report: Callable[[int, int], object] = lambda *_: None,
) -> dict[str, Packed]:
    """Quantize linear layers so that what they put out for samples stays, rather than the weights.

    Two streams of hidden states go through the network block by block, of images as well as text:
    one as in the dense model, one as in the model quantized so far. A layer learns to give the
    output of the first from the input of the second, and so to undo earlier errors.

    Args:
        model: dense; stays as it is.
        schemes: how layers are quantized, by our paths. Those not learnable count as plainly
            rounded.
        samples: prompts as the model will see them, best with answers. The hidden states of all
            of them are held in memory, twice.
        dtype: in which scales and biases will be stored; the codes are chosen for these values.
        report: called with the layers learned so far, and of all.

    Returns:
        Packed uint32 weight, scales and biases of the learnable layers which the samples reach.
        Where `mx.quantize` comes nearer to the dense output of the samples, they are its own.

    Raises:
        InputError: there is no learnable layer, or the samples reach none.
    """
    tower = model.vision_tower
    views = [
        (patches, grid)
        for sample in samples
        for patches, grid in zip(sample.pixel_values, sample.spatial_shapes, strict=True)
    ]

    def to_grids(states: States) -> Iterator[mx.array]:
        for x, (_, grid) in zip(states, views, strict=True):
            yield tower.post_layernorm(x).reshape(1, *grid, -1)

    def to_prompts(states: States) -> Iterator[mx.array]:
        features = iter(states)
        for sample in samples:
            rows = [next(features)[0] for _ in sample.pixel_values]
            yield model.embed(sample.input_ids, mx.concatenate(rows) if rows else None)

    patches = (
        tower.embeddings(model._normalise(mx.array(patches)[None]), grid) for patches, grid in views
    )
    learner = _Learner(schemes, learnable_paths(model, schemes), patches, dtype, report)
    for i, layer in enumerate(tower.encoder.layers):
        learner.advance(f"{TOWER_LAYERS}{i}.", layer)
    learner.map(to_grids)
    learner.advance(CONNECTOR, model.multi_modal_projector)
    learner.map(to_prompts)
    learner.round_embeddings(model, samples)
    for i, layer in enumerate(model.language_model.layers):
        learner.advance(f"{DECODER_LAYERS}{i}.", layer, None, Place())
    if not learner.learned:
        raise InputError("there is nothing to learn: no linear layer of affine mode sees a sample")
    return learner.learned


class _Learner:
    """Two streams of hidden states at one place of the network, and what was learned before it."""

    def __init__(
        self,
        schemes: Mapping[str, Scheme],
        paths: Sequence[str],
        states: Iterable[mx.array],
        dtype: mx.Dtype,
        report: Callable[[int, int], object],
    ) -> None:
        self.schemes, self.paths = schemes, paths
        self.dense = self.rounded = _evaluated(states)  # one list until a layer is quantized
        self.dtype, self.report = dtype, report
        self.learned: dict[str, Packed] = {}

    def map(self, step: Callable[[States], Iterable[mx.array]]) -> None:
        """Take both streams through something that stays as it is."""
        same = self.rounded is self.dense
        self.dense = _evaluated(step(self.dense))
        self.rounded = self.dense if same else _evaluated(step(self.rounded))

    def round_embeddings(self, model: Lfm2VL, samples: Sequence[Inputs]) -> None:
        """Give the text of the rounded stream the embeddings that it will have."""
        if EMBEDDING not in self.schemes:
            return
        table = model.language_model.embed_tokens.weight
        for n, sample in enumerate(samples):
            ids = mx.array(sample.input_ids)
            text = self._plainly_rounded(table[ids], self.schemes[EMBEDDING])
            is_image = (ids == model.config.image_token_id)[:, None]
            self.rounded = [*self.rounded]
            self.rounded[n] = mx.where(is_image, self.rounded[n], text)

    def advance(self, prefix: str, block: nn.Module, *arguments: object) -> None:
        """Learn the layers of a block in the order they run, and take both streams through it.

        Args:
            prefix: of the block's layers in our paths.
            block: called with hidden states, then `arguments`.
        """
        names = [path.removeprefix(prefix) for path in self.schemes if path.startswith(prefix)]
        if not names or not self.dense:
            self.map(lambda states: (block(x, *arguments) for x in states))
            return
        teacher, student = _Traced(block, names), _Traced(block, names)
        for name in names:
            if prefix + name not in self.paths:
                layer, scheme = student.layers[name], self.schemes[prefix + name]
                layer.weight = self._plainly_rounded(layer.weight, scheme)
        pairs = list(zip(self.dense, self.rounded, strict=True))
        teacher.block(self.dense[0], *arguments)
        for together in teacher.sharing_an_input():
            learned = [name for name in together if prefix + name in self.paths]
            if not learned:
                continue
            hessian, gaps = _statistics(teacher, student, learned, pairs, arguments)
            for name in learned:
                layer, scheme = student.layers[name], self.schemes[prefix + name]
                packed = _learn(layer.weight, hessian, gaps.pop(name), scheme, self.dtype)
                layer.weight = _restored(packed, scheme, layer.weight.dtype)
                self.learned[prefix + name] = packed
                self.report(len(self.learned), len(self.paths))
        self.dense = _evaluated(teacher.block(x, *arguments) for x in self.dense)
        self.rounded = _evaluated(student.block(x, *arguments) for x in self.rounded)

    def _plainly_rounded(self, weight: mx.array, scheme: Scheme) -> mx.array:
        return _restored(_plain(weight.astype(self.dtype), scheme), scheme, weight.dtype)


class _Traced:
    """A copy of a block whose linear layers tell what they see.

    Attributes:
        layers: the watched layers of the copy, by name within the block.
        seen: their last inputs and outputs, in the order of the calls.
    """

    def __init__(self, block: nn.Module, names: Sequence[str]) -> None:
        self.block = copy.deepcopy(block)
        modules = dict(self.block.named_modules())
        self.layers = {name: modules[name] for name in names}
        self.seen: dict[str, tuple[mx.array, mx.array]] = {}
        taps = [(name, _Tap(name, layer, self.seen)) for name, layer in self.layers.items()]
        self.block.update_modules(tree_unflatten(taps))

    def sharing_an_input(self) -> list[list[str]]:
        """Names of layers that got the very same array in the last call, in order."""
        groups: dict[int, list[str]] = {}
        for name, (x, _) in self.seen.items():
            groups.setdefault(id(x), []).append(name)
        return list(groups.values())


class _Tap(nn.Module):
    """A linear layer that notes its last input and output."""

    def __init__(self, name: str, layer: nn.Module, seen: dict) -> None:
        super().__init__()
        self._name, self.layer, self._seen = name, layer, seen

    def __call__(self, x: mx.array) -> mx.array:
        y = self.layer(x)
        self._seen[self._name] = x, y
        return y


def _statistics(
    teacher: _Traced,
    student: _Traced,
    names: Sequence[str],
    pairs: Sequence[tuple[mx.array, mx.array]],
    arguments: Sequence[object],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What layers with a common input must know of the samples.

    Args:
        teacher: the dense block.
        student: the same, with its earlier layers already quantized.
        names: of the layers.
        pairs: inputs of teacher and student.
        arguments: of the blocks, after the hidden states.

    Returns:
        XᵀX, (K, K), and for each layer Xᵀ(Y - XWᵀ), (K, rows): X is the student's input and Y the
        teacher's output, without bias, at all positions of all samples. float32.
    """
    hessian, gaps = mx.array(0.0), dict.fromkeys(names, mx.array(0.0))
    for dense, rounded in pairs:
        teacher.block(dense, *arguments)
        student.block(rounded, *arguments)
        x = student.seen[names[0]][0].flatten(0, -2).astype(mx.float32)
        hessian = hessian + x.T @ x
        for name in names:
            gap = teacher.seen[name][1] - student.seen[name][1]
            gaps[name] = gaps[name] + x.T @ gap.flatten(0, -2).astype(mx.float32)
        mx.eval(hessian, gaps)  # nothing behind these layers runs
    return np.array(hessian), {name: np.array(gap) for name, gap in gaps.items()}


def _learn(
    layer_weight: mx.array, hessian: np.ndarray, gap: np.ndarray, scheme: Scheme, dtype: mx.Dtype
) -> Packed:
    """Quantize one weight.

    Args:
        layer_weight: (rows, K).
        hessian: (K, K), and
        gap: (K, rows) of `_statistics`.
        scheme: affine.
        dtype: of scales and biases.

    Returns:
        (rows, K * bits / 32) uint32, and twice (rows, K / group size) of `dtype`.
    """
    weight = np.array(layer_weight.astype(mx.float32)).T
    damped = hessian.copy()
    damped[np.diag_indices_from(damped)] += DAMPING * np.diag(hessian).mean()
    target = weight + np.linalg.solve(damped, gap)
    scales, biases = _search(target, np.diag(damped), scheme, dtype)
    codes = _nearest_plane(target, damped, scales, biases, scheme)
    for _ in range(SWEEPS):
        _sweep(target, damped, codes, scales, biases, scheme, dtype)
    learned = (
        mx.array(pack(codes.T.astype(np.uint8), scheme.bits)),
        mx.array(scales.T).astype(dtype),
        mx.array(biases.T).astype(dtype),
    )
    plain = _plain(layer_weight.astype(dtype), scheme)

    def error(packed: Packed) -> float:
        change = weight - np.array(_restored(packed, scheme, mx.float32)).T
        return float(np.sum(change * (hessian @ change + 2 * gap)))  # but for what is constant

    return min(plain, learned, key=error)


def _search(
    weight: np.ndarray, importance: np.ndarray, scheme: Scheme, dtype: mx.Dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases of small squared error, weighted by the importance of the inputs.

    Args:
        weight: (K, rows).
        importance: (K,).

    Returns:
        Twice (K / group size, rows).
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

    With A = CCᵀ the error eᵀAe is the sum of squares of Cᵀe, and e's last element alone decides
    the last term. Rounding from there, each term is made as small as it can be made with the
    elements behind it fixed. The inputs that matter most come last, that is first.

    Args:
        target: (K, rows).
        damped: (K, K).
        scales: (K / group size, rows), as biases.

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
) -> None:
    """Improve scales, biases and codes in place, each with all others fixed, group by group.

    Coordinate descent on the error that `_nearest_plane` takes greedily, as QuantEase does for
    codes (arXiv 2309.01885). Shapes as there.
    """
    levels, size = 2**scheme.bits - 1, scheme.group_size
    errors = target - codes * scales.repeat(size, axis=0) - biases.repeat(size, axis=0)
    for group, (scale, bias) in enumerate(zip(scales, biases, strict=True)):
        span = slice(group * size, (group + 1) * size)
        local, code, error = damped[span, span], codes[span], errors[span]
        pull = damped[span] @ errors  # half the gradient
        # The change of scale and bias solves two linear equations.
        image = local @ code
        a, b, c = (code * image).sum(0), image.sum(0), local.sum()
        u, v = (code * pull).sum(0), pull.sum(0)
        determinant = np.maximum(a * c - b * b, 1e-6 * a * c + 1e-30)
        scale_step = _stored(scale + (c * u - b * v) / determinant, dtype) - scale
        bias_step = _stored(bias + (a * v - b * u) / determinant, dtype) - bias
        step = code * scale_step + bias_step
        answer = local @ step
        better = (step * (answer - 2 * pull)).sum(0) < 0
        better &= np.abs(scale + scale_step) > SMALLEST_SCALE
        scale += better * scale_step
        bias += better * bias_step
        error -= better * step
        pull -= better * answer
        for i in range(size):
            new = np.clip(np.rint(code[i] + pull[i] / (local[i, i] * scale)), 0, levels)
            step = (new - code[i]) * scale
            code[i] = new
            error[i] -= step
            pull[i + 1 :] -= np.outer(local[i, i + 1 :], step)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """(..., K) uint8 codes below 2**bits -> (..., K * bits / 32) uint32 as MLX packs them.

    That is one stream of bits, from the lowest of the first code on.
    """
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    stream = stream.reshape(*codes.shape[:-1], -1)
    return np.packbits(stream, axis=-1, bitorder="little").view(np.uint32)


def _plain(weight: mx.array, scheme: Scheme) -> Packed:
    return tuple(mx.quantize(weight, scheme.group_size, scheme.bits, scheme.mode))


def _restored(packed: Packed, scheme: Scheme, dtype: mx.Dtype) -> mx.array:
    weight, *rest = packed
    if scheme.mode == "affine":  # in the precision of a product that never rounds the weight
        rest = [array.astype(mx.float32) for array in rest]
    group_size, bits, mode = scheme.group_size, scheme.bits, scheme.mode
    return mx.dequantize(
        weight, *rest, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32
    ).astype(dtype)


def _stored(x: mx.array | np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """The float32 values of numbers that went through a type."""
    return np.array(mx.array(x).astype(dtype).astype(mx.float32))


def _evaluated(arrays: Iterable[mx.array]) -> States:
    """A list of arrays computed one after the other, so that memory stays flat."""
    result = []
    for array in arrays:
        mx.eval(array)
        result.append(array)
    return result
