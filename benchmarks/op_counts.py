"""Count the Metal kernels of a decode step and of an image, and the longest chain of kernels.

usage: python benchmarks/op_counts.py

MLX builds a graph before it evaluates anything, so any machine can count. The networks have the
depth of LFM2.5-VL-450M (12 encoder and 16 decoder layers) and small widths, which do not affect the
counts. Independent kernels overlap on Metal; those in a chain must run one after the other.
"""

import collections
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import mlx.core as mx
import numpy as np

from mlx_lfm2vl import Sampling
from mlx_lfm2vl.checkpoint.config import ModelConfig, ProjectorConfig, TextConfig, VisionConfig
from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.generation import sampling
from mlx_lfm2vl.generation.sampling import Sampler
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.model import attention as attention_module
from mlx_lfm2vl.model import decode_step as decode_step_module
from mlx_lfm2vl.model import device_ops, language, lfm2vl, vision
from mlx_lfm2vl.model.decode_step import DecodeStep, prefill
from mlx_lfm2vl.model.lfm2vl import Lfm2VL

ATTENTION_LAYERS = (2, 5, 8, 10, 12, 14)  # of 16 layers; the others are short convolutions
PROMPT = 8  # tokens in the cache before the step
IMAGE_TOKEN = 3
SEVEN_VIEWS = [(32, 32)] * 6 + [(26, 38)]  # patch grids of 1536 x 1024 pixels: tiles, thumbnail
LIQUIDS = Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)

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

    with (
        patch.object(device_ops, "GPU", True),
        fused(lfm2vl, "_standardize"),
        fused(language, "_gated_sum"),
        fused(language, "_swiglu"),
        patch.object(decode_step_module, "traced", mx.compile),
        patch.object(sampling, "traced", mx.compile),
        patch.object(sampling, "_chooser", sampling._chooser.__wrapped__),
        patch.object(vision, "gelu_tanh", mx.compile(vision.gelu_sigmoid)),
    ):
        yield


@contextmanager
def metal_view() -> Iterator[None]:
    """Within this context graphs have the nodes they have on Metal; evaluating them is an error."""

    def layer_norm(x: mx.array, _weight: Any, _bias: Any, _eps: float) -> mx.array:
        return mx.logcumsumexp(x, axis=-1)

    def rms_norm(x: mx.array, _weight: Any, _eps: float) -> mx.array:
        return mx.cummax(x, axis=-1)

    def rope(x: mx.array, _dims: int, **_options: Any) -> mx.array:
        return mx.cummin(x, axis=-1)

    def attention(q: mx.array, k: mx.array, v: mx.array, **_options: Any) -> mx.array:
        return mx.cumprod(mx.depends([q], [k, v])[0], axis=-1)

    with (
        compiling(),
        patch.object(mx.fast, "layer_norm", layer_norm),
        patch.object(mx.fast, "rms_norm", rms_norm),
        patch.object(mx.fast, "rope", rope),
        patch.object(mx.fast, "scaled_dot_product_attention", attention),
        patch.object(mx, "async_eval", lambda *_arrays: None),
        patch.object(attention_module, "GPU", True),
        patch.object(lfm2vl, "MAX_PATCHES", 4096),
    ):
        yield


def graph(*outputs: mx.array) -> list[Node]:
    """The nodes that compute the outputs; each comes after those it needs."""
    text = io.StringIO()
    mx.export_to_dot(text, *outputs)
    nodes: list[Node] = []
    # A node's label comes before its edges. Only this order assigns edges to nodes, because ids
    # repeat: calls of one compiled function share an id.
    for line in text.getvalue().splitlines():
        if label := re.search(r'\[label ="(\w+)"', line):
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


def make_model() -> Lfm2VL:
    config = ModelConfig(
        vision=VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=12,
            num_attention_heads=2,
            num_channels=3,
            num_patches=256,
            patch_size=4,
            layer_norm_eps=1e-6,
        ),
        projector=ProjectorConfig(
            hidden_size=32, bias=True, use_layernorm=False, downsample_factor=2
        ),
        text=TextConfig(
            vocab_size=512,
            hidden_size=64,
            feed_forward_size=128,
            layer_types=tuple(
                "full_attention" if i in ATTENTION_LAYERS else "conv" for i in range(16)
            ),
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            norm_eps=1e-5,
            conv_L_cache=3,
            rope_theta=1e6,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        ),
        image_token_id=IMAGE_TOKEN,
        eos_token_ids=(2,),
        sampling=Sampling(),
        quantization=None,
    )
    model = Lfm2VL(config, ImageConfig(encoder_patch_size=4, downsample_factor=2))
    model.set_dtype(mx.bfloat16)
    model.eval()
    mx.eval(model.parameters())
    return model


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


def prompt_pass(model: Lfm2VL) -> Cost:
    """The cost of a prompt's pass through the decoder."""
    cache = model.make_cache()
    embeds = model.embed(range(PROMPT))
    mx.eval(embeds)
    with metal_view():
        return Cost.of(graph(prefill(model, embeds, cache), *cache.arrays))


def image_embeddings(model: Lfm2VL, views: list[tuple[int, int]]) -> Cost:
    """The cost from uint8 patches to the decoder's input, for the first image of these shapes."""
    patch_size = 3 * model.config.vision.patch_size**2
    patches = [np.zeros((rows * columns, patch_size), np.uint8) for rows, columns in views]
    tokens = sum(rows * columns // 4 for rows, columns in views)
    with metal_view():
        features = model.encode_images(patches, views)
        return Cost.of(graph(model.embed([1, *[IMAGE_TOKEN] * tokens, 2], features)))


class Tower(NamedTuple):
    """Sizes of a published vision tower."""

    layers: int
    hidden: int
    intermediate: int


TOWERS = {"450M": Tower(12, 768, 3072), "1.6B, 3B": Tower(27, 1152, 4304)}
PICTURES = [(224, 224), (240, 320), (480, 640), (720, 1280), (768, 1024), (1080, 1920)]
PADDED = 1024  # patches to which the reference and mlx-vlm pad every view


def tower_flops(tower: Tower, patches: int) -> int:
    """The number of multiplications and additions for one view of so many patches."""
    linear = 4 * tower.hidden**2 + 2 * tower.hidden * tower.intermediate
    attention = 2 * patches * tower.hidden
    embedding = 3 * 16**2 * tower.hidden
    return 2 * patches * (tower.layers * (linear + attention) + embedding)


def flop_rows() -> Iterator[str]:
    """Table rows with the towers' operations for unpadded and for padded views."""
    config = ImageConfig(encoder_patch_size=16, downsample_factor=2)
    for height, width in PICTURES:
        plan = plan_image(height, width, config)
        patches = [rows * columns for rows, columns in plan.spatial_shapes]
        cells = [f"{width} x {height}", str(len(patches))]
        for tower in TOWERS.values():
            ours = sum(tower_flops(tower, count) for count in patches)
            padded = len(patches) * tower_flops(tower, PADDED)
            cells += [f"{ours / 1e12:.2f}", f"{padded / 1e12:.2f}", f"{1 - ours / padded:.0%}"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    model = make_model()
    rows = {
        "decode step, greedy": decode_step(model, Sampling()),
        "decode step, Liquid's sampling": decode_step(model, LIQUIDS),
        "prompt": prompt_pass(model),
        "image of 1 view": image_embeddings(model, SEVEN_VIEWS[:1]),
        "image of 7 views": image_embeddings(model, SEVEN_VIEWS),
    }
    print("| work | kernels | longest chain |\n|---|---|---|")
    for name, cost in rows.items():
        print(f"| {name} | {cost.kernels.total()} | {cost.chain} |")
    heads = " | ".join(f"{name}, TFLOP | padded | saved" for name in TOWERS)
    print(f"\n| image | views | {heads} |\n|{'---|' * 8}")
    print("\n".join(flop_rows()))
    for name, cost in rows.items():
        print(f"\n{name}: " + ", ".join(f"{k} {n}" for k, n in cost.kernels.most_common() if n))


if __name__ == "__main__":
    main()
