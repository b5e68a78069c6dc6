"""Counting the kernels that Metal launches for a decode step and for an image.

MLX builds a graph before it evaluates anything, so any machine can count. On a GPU the graph is the
real one. Elsewhere `metal_view` makes it the one that Metal would have.
"""

import collections
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import mlx.core as mx
import numpy as np

from ..generation import sampling, verifying
from ..generation.drafting import ModelDrafter
from ..generation.sampling import Sampler
from ..generation.verifying import VerifyingSampler
from ..model import attention as attention_module
from ..model import decode_step as decode_step_module
from ..model import device_ops, draft_heads, language, lfm2vl, vision
from ..model import drafter as drafter_module
from ..model.decode_step import DecodeStep
from ..model.drafter import DraftModel
from ..model.lfm2vl import Lfm2VL
from ..options import Sampling

PROMPT = 8  # tokens in the cache before the step

# On a CPU the functions of mx.fast expand into many small primitives when the graph is built. Each
# is replaced by a primitive that nothing else uses and that is never fused, to count it as the one
# kernel it is on Metal.
MARKERS = {
    "CumLogAddExp": "LayerNorm",
    "CumMax": "RMSNorm",
    "CumMin": "RoPE",
    "CumProd": "Attention",
}

# Kernels per primitive, where that is not one. Follows mlx/backend/{metal,gpu}/*.cpp in 0.32: views
# cost nothing unless a copy is needed, and a concatenation copies each input.
NO_KERNEL = frozenset(
    [
        "AsStrided",
        "Broadcast",
        "Contiguous",
        "Copy",
        "Depends",
        "ExpandDims",
        "Flatten",
        "Full",
        "Load",
        "NumberOfElements",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
        "View",
    ]
)
SEVERAL = {"DynamicSliceUpdate": 2, "Pad": 2, "Scatter": 2, "ScatterAxis": 2}


class Node(NamedTuple):
    """A primitive in a graph, or a compiled region."""

    name: str
    inputs: list[str]
    outputs: list[str]

    @property
    def kernels(self) -> int:
        if self.name == "Concatenate":
            return len(self.inputs)
        return 0 if self.name in NO_KERNEL else SEVERAL.get(self.name, 1)


@contextmanager
def compiling() -> Iterator[None]:
    """Within this context the package compiles whatever it compiles on Metal.

    No compiler runs, because graphs are not evaluated.
    """

    def fused(module: Any, name: str) -> Any:
        return patch.object(module, name, mx.compile(getattr(module, name), shapeless=True))

    patches = [
        patch.object(device_ops, "GPU", True),
        fused(lfm2vl, "_standardize"),
        fused(language, "_gated_sum"),
        fused(language, "swiglu"),
        fused(drafter_module, "swiglu"),
        fused(drafter_module, "_moved"),
        fused(drafter_module, "_is_below"),
        fused(draft_heads, "_ids_of"),
        fused(draft_heads, "_sum"),
        fused(draft_heads, "_sum_by"),
        fused(draft_heads, "_sigmoid_of_sum"),
        fused(attention_module, "_widened"),
        patch.object(decode_step_module, "traced", mx.compile),
        patch.object(sampling, "traced", mx.compile),
        patch.object(sampling, "chooser", sampling.chooser.__wrapped__),
        patch.object(verifying, "chooser", sampling.chooser.__wrapped__),
        patch.object(verifying, "_warmed", mx.compile(verifying._warmed)),
        patch.object(vision, "gelu_tanh", mx.compile(vision.gelu_sigmoid)),
    ]
    with ExitStack() as stack:
        for each in () if device_ops.GPU else patches:
            stack.enter_context(each)
        yield


@contextmanager
def metal_view() -> Iterator[None]:
    """Within this context graphs have the nodes they have on Metal; evaluating them is an error."""

    def layer_norm(x: mx.array, _weight: Any, _bias: Any, _eps: float) -> mx.array:
        return mx.logcumsumexp(x, axis=-1)

    def rms_norm(x: mx.array, _weight: Any, _eps: float) -> mx.array:
        return mx.cummax(x, axis=-1)

    def rope(x: mx.array, _dims: int, *, offset: int | mx.array, **_options: Any) -> mx.array:
        return mx.cummin(after([x, offset]), axis=-1)

    def attention(
        q: mx.array, k: mx.array, v: mx.array, *, mask: object = None, **_options: Any
    ) -> mx.array:
        return mx.cumprod(after([q, k, v, mask]), axis=-1)

    def after(inputs: list[Any]) -> mx.array:
        first, *others = [each for each in inputs if isinstance(each, mx.array)]
        return mx.depends([first], others)[0] if others else first

    patches = [
        patch.object(mx.fast, "layer_norm", layer_norm),
        patch.object(mx.fast, "rms_norm", rms_norm),
        patch.object(mx.fast, "rope", rope),
        patch.object(mx.fast, "scaled_dot_product_attention", attention),
        patch.object(attention_module, "GPU", True),
        patch.object(drafter_module, "GPU", True),
        patch.object(lfm2vl, "MAX_PATCHES", 4096),
    ]
    with ExitStack() as stack:
        stack.enter_context(patch.object(mx, "async_eval", lambda *_arrays: None))
        for each in () if device_ops.GPU else patches:
            stack.enter_context(each)
        stack.enter_context(compiling())
        yield


def graph(*outputs: mx.array) -> list[Node]:
    """The nodes that compute the outputs; each comes after those it needs."""
    text = io.StringIO()
    mx.export_to_dot(text, *outputs)
    nodes: list[Node] = []
    # A node's label comes before its edges. Only this order assigns edges to nodes, because ids
    # repeat: calls of one compiled function share an id.
    for line in text.getvalue().splitlines():
        if label := re.search(r'\[label ="(\w+)', line):
            nodes.append(Node(MARKERS.get(label[1], label[1]), [], []))
        elif edge := re.fullmatch(r'"(\w+)" -> \d+', line):
            nodes[-1].inputs.append(edge[1])
        elif edge := re.fullmatch(r'\d+ -> "(\w+)"', line):
            nodes[-1].outputs.append(edge[1])
    return nodes


def chain(nodes: list[Node]) -> int:
    """Length of the longest sequence of kernels in which each needs the one before."""
    done: dict[str, int] = collections.defaultdict(int)
    for node in nodes:
        ready = max((done[name] for name in node.inputs), default=0)
        done |= dict.fromkeys(node.outputs, ready + (node.kernels > 0))
    return max(done.values())


@dataclass(frozen=True)
class Cost:
    """Kernels by name, and the longest chain of them."""

    kernels: collections.Counter[str]
    chain: int

    @classmethod
    def of(cls, nodes: list[Node]) -> "Cost":
        kernels: collections.Counter[str] = collections.Counter()
        for node in nodes:
            kernels[node.name] += node.kernels
        return cls(kernels, chain(nodes))


def decode_steps(model: Lfm2VL, settings: Sampling, count: int) -> list[Node]:
    """The graph from a token to the `count`-th token after it, including the caches' updates."""
    cache = model.make_cache()
    mx.eval(model.language_model(model.embed(range(PROMPT)), cache), cache.arrays)
    with compiling():
        step, sampler = DecodeStep(model), Sampler(settings, [range(PROMPT)], [0])
    token = mx.array([1])
    with metal_view():
        for _ in range(count):
            token = sampler(step(token, cache)).tokens
        return graph(token, *cache.arrays)


def decode_step(model: Lfm2VL, settings: Sampling) -> Cost:
    """The cost of one more token in the middle of an answer."""
    fewer, more = (Cost.of(decode_steps(model, settings, count)) for count in (2, 3))
    return Cost(more.kernels - fewer.kernels, more.chain - fewer.chain)


def draft_round(
    model: Lfm2VL, drafter: DraftModel, settings: Sampling, proposals: int | None = None
) -> Cost:
    """The cost of a round in the middle of an answer: a draft is verified, and the next one made.

    Args:
        model: the target.
        drafter: of the target.
        settings: of the sampler.
        proposals: tokens of the draft that is verified; None for a whole block.
    """
    count = drafter.config.block_size if proposals is None else proposals
    decoder, draft = model.language_model, [1] * count
    cache, context = model.make_cache(), drafter.make_cache()
    _, taps = decoder.tapped(model.embed(range(PROMPT)), cache, drafter.config.target_layer_ids)
    drafter.append(mx.concatenate(taps, axis=-1), context)
    mx.eval(cache.arrays, context.arrays)
    sampler = VerifyingSampler(settings, [range(PROMPT)], [0])
    # Random states are made for hundreds of tokens at once, so not in this round.
    mx.eval(sampler.anticipate(mx.zeros((1, model.config.text.vocab_size)), None))
    with compiling():
        drafting = ModelDrafter(drafter, model, sampler, context, None, count)
    with metal_view():
        embeds = decoder.embed_tokens(mx.array([[1, *draft]], mx.uint32))
        hidden, outputs = decoder.tapped(embeds, cache, drafting.taps)
        verified = sampler.verify(model.head(hidden[0]), draft)
        numbers = drafting.queue(verified.tokens[verified.accepted], outputs, verified)
        assert numbers is not None
        return Cost.of(graph(verified.tokens, numbers, *cache.arrays, *context.arrays))


def image_embeddings(model: Lfm2VL, views: Sequence[tuple[int, int]]) -> Cost:
    """The cost from uint8 patches to the decoder's input, for the first image of these shapes.

    Args:
        model: the network.
        views: (rows, columns) of each view's patches.
    """
    config = model.config
    patch_size = 3 * config.vision.patch_size**2
    patches = [np.zeros((rows * columns, patch_size), np.uint8) for rows, columns in views]
    tokens = sum(rows * columns for rows, columns in views) // config.projector.downsample_factor**2
    assert config.image_token_id is not None
    with metal_view():
        features = model.encode_images(patches, views)
        return Cost.of(graph(model.embed([1, *[config.image_token_id] * tokens, 2], features)))
