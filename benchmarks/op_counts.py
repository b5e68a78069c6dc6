"""Count the Metal kernels of a decode step and of an image, and the longest chain of kernels.

usage: python benchmarks/op_counts.py

The networks have the depth of LFM2.5-VL-450M (12 encoder and 16 decoder layers) and small widths,
which do not affect the counts. Independent kernels overlap on Metal; those in a chain must run one
after the other. `mlx_lfm2vl doctor` counts those of a checkpoint in the same way.
"""

from collections.abc import Iterator
from typing import NamedTuple

import mlx.core as mx

from mlx_lfm2vl import Sampling
from mlx_lfm2vl.checkpoint.config import ModelConfig, ProjectorConfig, TextConfig, VisionConfig
from mlx_lfm2vl.checkpoint.image_config import ImageConfig
from mlx_lfm2vl.images.geometry import plan_image
from mlx_lfm2vl.model.decode_step import prefill
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.speed.launches import (
    PROMPT,
    Cost,
    decode_step,
    graph,
    image_embeddings,
    metal_view,
)

ATTENTION_LAYERS = (2, 5, 8, 10, 12, 14)  # of 16 layers; the others are short convolutions
IMAGE_TOKEN = 3
SEVEN_VIEWS = [(32, 32)] * 6 + [(26, 38)]  # patch grids of 1536 x 1024 pixels: tiles, thumbnail
LIQUIDS = Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)


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


def prompt_pass(model: Lfm2VL) -> Cost:
    """The cost of a prompt's pass through the decoder."""
    cache = model.make_cache()
    embeds = model.embed(range(PROMPT))
    mx.eval(embeds)
    with metal_view():
        return Cost.of(graph(prefill(model, embeds, cache), *cache.arrays))


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
