"""The small files of a checkpoint in the form that transformers and llama.cpp read.

Older repositories and MLX conversions spell many settings otherwise, or leave them out. Both
readers then fail, or use a default of their own.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .config import ARCHITECTURE, TIES, ModelConfig, TextConfig
from .image_config import OUR_OPTIONS, ImageConfig
from .json_file import read_json, read_optional_json

# Code of the first repositories, which is not copied and which transformers no longer needs.
CODE = "auto_map"
# Settings of the source that `settle_hub_files` writes under another key, or that no longer hold.
REPLACED = (CODE, "image_token_index", "vision_feature_layer", "torch_dtype", *TIES)
PACKED = ("quantization", "quantization_config")
REPLACED_TEXT = ("full_attn_idxs", "torch_dtype", "dtype", *TIES)


def settle_hub_files(folder: Path, config: ModelConfig, image: ImageConfig, dtype: str) -> None:
    """Rewrite a checkpoint's copied configuration and processor files, in place.

    Args:
        folder: holds them, copied from a checkpoint of any layout.
        config: of the model that is written.
        image: how that model's images are processed.
        dtype: name of the weights' type.

    Raises:
        CheckpointError: a file cannot be read.
    """
    values = read_json(folder / "config.json")
    generation = read_optional_json(folder / "generation_config.json")
    tokenizer = read_optional_json(folder / "tokenizer_config.json")
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    _write(folder / "config.json", _config(values, config, dtype))
    _write(folder / "processor_config.json", _processor(image))
    _write(folder / "generation_config.json", _generation(generation, values, config))
    if tokenizer.pop(CODE, None):
        _write(folder / "tokenizer_config.json", tokenizer)


def decoder_settings(text: TextConfig) -> dict[str, Any]:
    """Return every setting of the decoder, in the spellings of all readers of checkpoints."""
    return {
        "model_type": "lfm2",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "block_dim": text.hidden_size,
        "conv_dim": text.hidden_size,
        "num_hidden_layers": len(text.layer_types),
        "layer_types": list(text.layer_types),
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "max_position_embeddings": text.max_position_embeddings,
        "norm_eps": text.norm_eps,
        "conv_bias": False,
        "conv_L_cache": text.conv_L_cache,
        # This is the final width: readers must not adjust it again.
        "intermediate_size": text.feed_forward_size,
        "block_ff_dim": text.feed_forward_size,
        "block_auto_adjust_ff_dim": False,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "rope_theta": text.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta},
        "tie_word_embeddings": text.tie_word_embeddings,
    }


def _config(values: dict[str, Any], config: ModelConfig, dtype: str) -> dict[str, Any]:
    text = _without(values.get("text_config") or {}, REPLACED_TEXT)
    vision = _without(values.get("vision_config") or {}, ("torch_dtype", "dtype"))
    return {
        **_without(values, (*REPLACED, *PACKED)),
        "architectures": [ARCHITECTURE],
        "model_type": "lfm2_vl",
        "dtype": dtype,
        "image_token_id": config.image_token_id,
        "projector_bias": config.projector.bias,
        "projector_use_layernorm": config.projector.use_layernorm,
        "tie_word_embeddings": config.text.tie_word_embeddings,
        "text_config": {**text, **decoder_settings(config.text)},
        # Layers after vision_feature_layer are not written.
        "vision_config": {**vision, "num_hidden_layers": config.vision.num_hidden_layers},
    }


def _processor(image: ImageConfig) -> dict[str, Any]:
    values = {key: value for key, value in asdict(image).items() if key not in OUR_OPTIONS}
    special_tokens = values.pop("use_image_special_tokens")
    tile = (image.tile_size // image.encoder_patch_size) ** 2
    nested = {
        **values,
        "image_processor_type": "Lfm2VlImageProcessorFast",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "max_num_patches": max(image.max_image_tokens * image.downsample_factor**2, tile),
        "return_row_col_info": True,
        "size": {"height": image.tile_size, "width": image.tile_size},
    }
    outer = {} if special_tokens else {"use_image_special_tokens": False}
    return {"image_processor": nested, "processor_class": "Lfm2VlProcessor", **outer}


def _generation(
    generation: dict[str, Any], values: dict[str, Any], config: ModelConfig
) -> dict[str, Any]:
    """Name the end tokens, which transformers does not ask the tokenizer for."""
    ends = list(config.eos_token_ids)
    text = values.get("text_config") or {}
    known = {
        key: text[key] for key in ("bos_token_id", "pad_token_id") if text.get(key) is not None
    }
    return {
        **known,
        **generation,
        **({"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {}),
    }


def _without(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
