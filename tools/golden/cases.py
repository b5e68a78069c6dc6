"""The checkpoints in tests/golden and the prompts that run through each."""

from __future__ import annotations

from dataclasses import dataclass

from .special_tokens import SPECIAL


@dataclass(frozen=True)
class Case:
    """One checkpoint and the prompts to run through it.

    `text`, `vision`, `model` and `image` are settings of Lfm2Config, Siglip2VisionConfig,
    Lfm2VlConfig and Lfm2VlImageProcessor. The tables below give the settings left out.
    """

    name: str
    text: dict
    vision: dict
    model: dict
    image: dict
    prompts: dict[str, list[dict]]
    dtype: str = "bfloat16"  # of the files; all computation is in float32
    specials_last: bool = False
    shard_size: str = "1GB"
    old_names: bool = False
    says_tied: bool = False  # in the config, although the files have an output head of their own
    has_end_id: bool = True  # in the config; else only the tokenizer's files name the end token
    has_stages: bool = False
    has_gradients: bool = False
    has_pixel_values: bool = True  # False: store only one mean per view
    first_seed: int = 0


TEXT = {
    "model_type": "lfm2",
    "vocab_size": len(SPECIAL) + 256,
    "conv_L_cache": 3,
    "max_position_embeddings": 2048,
}
# Sides are multiples of 8 (patch 4, factor 2), tiles are 6 x 6 patches, a view has 4 to 9 tokens,
# and an image is split into tiles if its rounded area exceeds 2 * 9 * 64 = 1152.
IMAGE = {
    "encoder_patch_size": 4,
    "downsample_factor": 2,
    "tile_size": 24,
    "min_image_tokens": 4,
    "max_image_tokens": 9,
    "min_tiles": 2,
    "max_tiles": 6,
    "max_pixels_tolerance": 2.0,
    "use_thumbnail": True,
    "resample": 2,
}
VISION = {
    "model_type": "siglip2_vision_model",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 4,
    "vision_use_head": False,
}


def picture(height: int, width: int, seed: int) -> dict:
    return {"type": "image", "picture": [height, width, seed]}


def say(text: str) -> dict:
    return {"type": "text", "text": text}


def user(*content: dict) -> dict:
    return {"role": "user", "content": list(content)}


# Two conversations that several cases share.
SYSTEM = [
    {"role": "system", "content": "Be brief."},
    user(picture(24, 17, 21), say("Colour?")),  # its tokens are in the golden files
]
CHAT = [
    user(picture(13, 21, 22), say("What is this?")),
    {"role": "assistant", "content": "A disc."},
    user(say("And this?"), picture(24, 40, 23)),
]


CASES = [
    Case(
        name="new_names",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "intermediate_size": 40,  # int(2 * 40 / 3) = 26, rounded up: 32
            "block_auto_adjust_ff_dim": True,
            "block_multiple_of": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={"hidden_size": 16, "intermediate_size": 24, "num_patches": 16},
        model={"projector_hidden_size": 20, "projector_use_layernorm": False},
        image={},
        prompts={
            "small": [user(picture(13, 21, 1), say("What?"))],
            "tiled": [user(picture(45, 44, 2), say("Describe."))],  # 2 x 2 and thumbnail
            "two_images": [
                user(picture(20, 30, 3), say("or"), picture(25, 70, 4), say("which one?"))
            ],
            "strip": [user(picture(3, 60, 5), say("How long?"))],  # one view of 2 x 16 patches
            "text_only": [user(say("Hello <there> & 'you'."))],
            "system": SYSTEM,
            "chat": CHAT,
        },
        dtype="float32",
        has_stages=True,
        has_gradients=True,
    ),
    Case(
        name="old_names",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "full_attention", "conv"],
            "intermediate_size": 36,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={"hidden_size": 16, "intermediate_size": 36, "num_patches": 36},
        model={"projector_hidden_size": 20, "projector_use_layernorm": True},
        image={
            "tile_size": 32,
            "max_image_tokens": 16,
            "max_tiles": 4,
            "use_thumbnail": False,
            "resample": 3,  # the files say 2, which the legacy processor never read
        },
        prompts={
            "small": [user(picture(20, 30, 1), say("What is this?"))],
            "tiled": [user(picture(60, 60, 2), say("Describe."))],  # 2 x 2
            "two_images": [user(picture(15, 26, 3), say(" and "), picture(40, 80, 4), say("?"))],
            "strip": [user(picture(240, 12, 5), say("How tall?"))],  # 4 x 1
            "text_only": [user(say("Hello there."))],
        },
        old_names=True,
    ),
    Case(
        name="head_72",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "conv", "full_attention"],
            "intermediate_size": 40,
            "block_auto_adjust_ff_dim": True,
            "block_multiple_of": 8,
            "vocab_size": TEXT["vocab_size"] + 11,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
        },
        vision={
            "hidden_size": 144,
            "intermediate_size": 76,
            "num_hidden_layers": 1,
            "num_patches": 16,
        },
        model={"projector_hidden_size": 8, "projector_use_layernorm": False},
        # If one tile is allowed, the reference fails on a large image that gets a 1 x 1 grid,
        # because it counts the tokens of another size. No picture here does.
        image={"min_tiles": 1, "resample": 3},
        prompts={
            "small": [user(picture(21, 14, 1), say("What?"))],
            "tiled": [user(picture(30, 70, 2), say("Describe."))],  # 1 x 2 and thumbnail
            "two_images": [
                user(picture(16, 24, 3), say("then"), picture(50, 75, 4), say("more?"))
            ],  # the second 2 x 3 and thumbnail
            "strip": [user(picture(60, 3, 5), say("How tall?"))],  # one view of 16 x 2 patches
            "text_only": [user(say("Hello there."))],
        },
        specials_last=True,
        has_stages=True,
    ),
    Case(
        name="untied_sharded_bf16",
        text={
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 3,
            "layer_types": ["full_attention", "conv", "full_attention"],
            "intermediate_size": 32,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={"hidden_size": 24, "intermediate_size": 28, "num_patches": 64},
        model={
            "projector_hidden_size": 20,
            "projector_use_layernorm": True,
            "tie_word_embeddings": False,
        },
        image={},
        prompts={
            "small": [user(picture(18, 18, 1), say("Qu'est-ce que c'est, 日本?"))],
            "tiled": [user(picture(70, 28, 2), say("Describe."))],  # 3 x 1 and thumbnail
            "two_images": [
                user(picture(13, 40, 3), say("or"), picture(28, 60, 4), say("which one?"))
            ],
            "strip": [user(picture(3, 60, 5), say("How long?"))],
            "text_only": [user(say("Hello there."))],
            "system": SYSTEM,
            "chat": CHAT,
        },
        shard_size="40KB",
    ),
    Case(
        name="real_geometry",
        text={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "intermediate_size": 32,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_patches": 256,
            "patch_size": 16,
        },
        model={"projector_hidden_size": 16, "projector_use_layernorm": False},
        image={
            "encoder_patch_size": 16,
            "tile_size": 512,
            "min_image_tokens": 64,
            "max_image_tokens": 256,
            "max_tiles": 10,
        },
        prompts={
            "single": [user(picture(480, 640, 1), say("What is this?"))],
            "tiled": [user(picture(600, 1100, 2), say("Describe."))],  # 1 x 2 and thumbnail
        },
        has_pixel_values=False,
    ),
    Case(
        name="odd_constants",  # every one is other than the libraries' default
        text={
            "hidden_size": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "intermediate_size": 40,  # int(2 * 40 / 3) = 26, int(1.5 * 26) = 39, rounded up: 40
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.5,
            "block_multiple_of": 8,
            "conv_L_cache": 4,
            "norm_eps": 1e-3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 777.0},
        },
        vision={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_patches": 25,
            "layer_norm_eps": 3e-3,
        },
        model={
            "projector_hidden_size": 20,
            "projector_bias": False,
            "projector_use_layernorm": True,
            "downsample_factor": 3,
        },
        image={
            "downsample_factor": 3,
            "tile_size": 36,
            "max_pixels_tolerance": 1.5,
            "rescale_factor": 1 / 128,
            "image_mean": [0.7, 0.9, 1.2],
            "image_std": [0.3, 0.45, 0.6],
            "resample": 3,
        },
        prompts={
            "small": [user(picture(20, 30, 1), say("What?"))],
            "tiled": [user(picture(36, 72, 2), say("Describe."))],  # 1 x 2 at this tolerance
            "two_images": [user(picture(16, 24, 3), say("or"), picture(40, 30, 4), say("this?"))],
            "text_only": [user(say("Hello there."))],
        },
        has_end_id=False,
    ),
    Case(
        name="own_head",
        text={
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 2,
            "layer_types": ["conv", "full_attention"],
            "intermediate_size": 32,
            "block_auto_adjust_ff_dim": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_patches": 16,
        },
        model={
            "projector_hidden_size": 32,
            "projector_use_layernorm": False,
            "tie_word_embeddings": False,
        },
        image={},
        prompts={
            "small": [user(picture(13, 21, 1), say("What?"))],
            "text_only": [user(say("Hello there."))],
        },
        says_tied=True,
    ),
]
