"""Learned rounding: quantize each layer so that its output on sample prompts changes least.

This is GPTQ (arXiv 2210.17323) followed by coordinate descent as in QuantEase (arXiv 2309.01885),
both in `rounding`, with the objective of GPTAQ (arXiv 2504.02692). Two streams of hidden states
run through the network block by block: one through the source's layers (dense), one through the
layers quantized so far (rounded). Each layer is fitted to map the rounded stream's input to the
dense stream's output, so it also corrects the errors of the layers before it.

Knows: the order of vision tower, connector and decoder, and which layers of a block share an input.
Does not know: files, command-line options, or what becomes of the result.
Guarantees: the source model is unchanged; the same samples give the same codes; and no learned
layer has a larger squared error on its own samples than the same layer rounded to nearest.
"""

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
from ..prompt.samples import Sample
from .rounding import Packed, learn_packed, restored, round_to_nearest

States = list[mx.array]  # hidden states, (1, L, C) of each view or each prompt


def learnable_paths(model: Lfm2VL, schemes: Mapping[str, Scheme]) -> list[str]:
    """Paths of the layers that `learn_rounding` can learn, in the model's order.

    These are the linear layers of the decoder, the connector and the vision encoder. `mx.quantize`
    rounds all others.
    """
    return [
        path
        for path, module in model.named_modules()
        if path in schemes
        and isinstance(module, nn.Linear)
        and path.startswith((TOWER_LAYERS, CONNECTOR, DECODER_LAYERS))
    ]


def learn_rounding(
    model: Lfm2VL,
    schemes: Mapping[str, Scheme],
    samples: Sequence[Sample],
    *,
    dtype: mx.Dtype,
    report: Callable[[int, int], object] = lambda *_: None,
) -> dict[str, Packed]:
    """Quantize linear layers so that their outputs on samples change least.

    Args:
        model: not quantized; it is left unchanged.
        schemes: path of a layer (our names) -> how to quantize it. Layers that cannot be learned
            are rounded to nearest in the rounded stream.
        samples: prompts like those the model will answer, preferably followed by their answers.
            Memory holds the hidden states of all of them twice.
        dtype: type that scales and biases of the affine mode are stored in; codes are chosen for
            the stored values.
        report: called with the number of layers learned so far and the total.

    Returns:
        Path -> packed arrays, as `mx.quantize` gives them, for every learnable layer that the
        samples reach.
        A layer that `mx.quantize` rounds with less error on the samples keeps that result.

    Raises:
        InputError: no layer can be learned, or the samples reach none that can.
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
        tower.embeddings(model._normalize(mx.array(patches)[None]), grid) for patches, grid in views
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
        raise InputError("there is nothing to learn: no sample reaches a layer to be quantized")
    return learner.learned


class _Learner:
    """The two streams at one point of the network, and what was learned up to there.

    Attributes:
        dense: hidden states computed by the source.
        rounded: hidden states computed by the layers quantized so far. It is the same list as
            `dense` until the first layer is quantized.
        learned: path of a layer (our names) -> its packed arrays.
    """

    def __init__(
        self,
        schemes: Mapping[str, Scheme],
        paths: Sequence[str],
        states: Iterable[mx.array],
        dtype: mx.Dtype,
        report: Callable[[int, int], object],
    ) -> None:
        self.schemes, self.paths = schemes, paths
        self.dense = self.rounded = _evaluated(states)
        self.dtype, self.report = dtype, report
        self.learned: dict[str, Packed] = {}

    def map(self, step: Callable[[States], Iterable[mx.array]]) -> None:
        """Run both streams through a step that has no quantized layer."""
        same = self.rounded is self.dense
        self.dense = _evaluated(step(self.dense))
        self.rounded = self.dense if same else _evaluated(step(self.rounded))

    def round_embeddings(self, model: Lfm2VL, samples: Sequence[Sample]) -> None:
        """Give the rounded stream the text embeddings of the quantized model."""
        if EMBEDDING not in self.schemes:
            return
        table = model.language_model.embed_tokens.weight
        rounded = []
        for sample, states in zip(samples, self.rounded, strict=True):
            ids = mx.array(sample.input_ids)
            text = self._rounded_to_nearest(table[ids], self.schemes[EMBEDDING])
            is_image = (ids == model.config.image_token_id)[:, None]
            rounded.append(mx.where(is_image, states, text))
        self.rounded = rounded

    def advance(self, prefix: str, block: nn.Module, *arguments: object) -> None:
        """Learn the layers of a block in the order they run, then run both streams through it.

        Args:
            prefix: what the paths of the block's layers begin with.
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
                layer.weight = self._rounded_to_nearest(layer.weight, scheme)
        pairs = list(zip(self.dense, self.rounded, strict=True))
        teacher.block(self.dense[0], *arguments)
        for together in teacher.sharing_an_input():
            learned = [name for name in together if prefix + name in self.paths]
            if not learned:
                continue
            hessian, gaps = _statistics(teacher, student, learned, pairs, arguments)
            for name in learned:
                layer, scheme = student.layers[name], self.schemes[prefix + name]
                packed = learn_packed(layer.weight, hessian, gaps.pop(name), scheme, self.dtype)
                layer.weight = restored(packed, scheme, layer.weight.dtype)
                self.learned[prefix + name] = packed
                self.report(len(self.learned), len(self.paths))
        self.dense = _evaluated(teacher.block(x, *arguments) for x in self.dense)
        self.rounded = _evaluated(student.block(x, *arguments) for x in self.rounded)

    def _rounded_to_nearest(self, weight: mx.array, scheme: Scheme) -> mx.array:
        return restored(round_to_nearest(weight.astype(self.dtype), scheme), scheme, weight.dtype)


class _Traced:
    """A copy of a block that records the inputs and outputs of its linear layers.

    Attributes:
        layers: the recorded layers of the copy, by their names within the block.
        seen: name -> last input and output, in the order of the calls.
    """

    def __init__(self, block: nn.Module, names: Sequence[str]) -> None:
        self.block = copy.deepcopy(block)
        modules = dict(self.block.named_modules())
        self.layers = {name: modules[name] for name in names}
        self.seen: dict[str, tuple[mx.array, mx.array]] = {}
        taps = [(name, _Tap(name, layer, self.seen)) for name, layer in self.layers.items()]
        self.block.update_modules(tree_unflatten(taps))

    def sharing_an_input(self) -> list[list[str]]:
        """Names of the layers, grouped by the array they received in the last call, in order."""
        groups: dict[int, list[str]] = {}
        for name, (x, _) in self.seen.items():
            groups.setdefault(id(x), []).append(name)
        return list(groups.values())


class _Tap(nn.Module):
    """A linear layer that records its last input and output."""

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
    """Sum, over all samples, what layers with a common input are learned from.

    Args:
        teacher: the dense block.
        student: a copy of it whose earlier layers are quantized already.
        names: of the layers.
        pairs: (teacher's input, student's input) for each view or prompt.
        arguments: what the blocks take after the hidden states.

    Returns:
        XᵀX, (K, K), and for each layer Xᵀ(Y - XWᵀ), (K, rows), in float32. X is the student's input
        and Y the teacher's output, without bias, at all positions of all samples.
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
        mx.eval(hessian, gaps)  # MLX is lazy, so nothing behind these layers runs
    return np.array(hessian), {name: np.array(gap) for name, gap in gaps.items()}


def _evaluated(arrays: Iterable[mx.array]) -> States:
    """Evaluate arrays one by one, so that memory holds the temporaries of one at a time."""
    result = []
    for array in arrays:
        mx.eval(array)
        result.append(array)
    return result
