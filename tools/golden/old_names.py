"""Rewrite a new checkpoint with the names of the first published revisions."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from .cases import IMAGE
from .files import compact_json, read_json, write_json
from .special_tokens import IMAGE_TOKENS


def rename_to_old(checkpoint: Path) -> None:
    """Rewrite a checkpoint in place, with the names of the first published revisions."""
    processor = read_json(checkpoint / "processor_config.json")["image_processor"]
    image = {name: processor[name] for name in IMAGE if name != "resample"}
    image |= {
        "do_image_splitting": True,
        "max_num_patches": (image["tile_size"] // image["encoder_patch_size"]) ** 2,
        "use_image_special_tokens": True,
    }
    rename_weights(checkpoint / "model.safetensors")
    rename_config(checkpoint / "config.json", image)
    rename_processor(checkpoint, image)
    rename_tokenizer(checkpoint)


def rename_weights(path: Path) -> None:
    old, new = "model.vision_tower.", "model.vision_tower.vision_model."
    tensors = {
        name.replace(old, new) if name.startswith(old) else name: tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def rename_config(path: Path, image: dict) -> None:
    config = read_json(path)
    text, vision = config["text_config"], config["vision_config"]
    layer_types = text.pop("layer_types")
    text["full_attn_idxs"] = [i for i, kind in enumerate(layer_types) if kind != "conv"]
    text["block_ff_dim"] = text.pop("intermediate_size")
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    text["block_dim"] = text["conv_dim"] = text["conv_dim_out"] = text["hidden_size"]
    text["num_heads"] = text["num_attention_heads"]
    text["block_norm_eps"] = text["norm_eps"]
    text["block_use_swiglu"] = text["use_pos_enc"] = True
    text["tie_embedding"] = text.pop("tie_word_embeddings")
    for part in (config, text, vision):
        part["torch_dtype"] = part.pop("dtype", "bfloat16")
    for gone in ("tie_word_embeddings", "projector_use_layernorm"):
        del config[gone]
    config |= image
    config["auto_map"] = {
        "AutoConfig": "modeling_lfm2_vl.Lfm2VlConfig",
        "AutoModelForImageTextToText": "modeling_lfm2_vl.Lfm2VlForConditionalGeneration",
    }
    config["image_token_index"] = config.pop("image_token_id")
    config["model_type"] = "lfm2-vl"
    config["vision_feature_layer"] = -1
    config["transformers_version"] = "4.55.0"
    write_json(path, dict(sorted(config.items())))


def rename_processor(checkpoint: Path, image: dict) -> None:
    common = {
        "auto_map": {"AutoProcessor": "processing_lfm2_vl.Lfm2VlProcessor"},
        "processor_class": "Lfm2VlProcessor",
    }
    write_json(checkpoint / "processor_config.json", {**common, **image})
    preprocessor = {
        **common,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Siglip2ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "input_data_format": "channels_last",
        "max_num_patches": image["max_num_patches"],
        "patch_size": image["encoder_patch_size"],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "return_tensors": "pt",
    }
    write_json(checkpoint / "preprocessor_config.json", preprocessor)


def rename_tokenizer(checkpoint: Path) -> None:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    markers = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
    }
    special = {name: {"content": token, **plain} for name, token in markers.items()}
    write_json(checkpoint / "special_tokens_map.json", {**special, **IMAGE_TOKENS})
    added = {
        str(token["id"]): {"content": token["content"], **plain, "special": True}
        for token in read_json(checkpoint / "tokenizer.json")["added_tokens"]
    }
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": added,
        "auto_map": {"AutoProcessor": "processing_lfm2_vl.Lfm2VlProcessor"},
        **markers,
        "clean_up_tokenization_spaces": True,
        "extra_special_tokens": IMAGE_TOKENS,
        **IMAGE_TOKENS,
        "processor_class": "Lfm2VlProcessor",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    path = checkpoint / "tokenizer_config.json"
    write_json(path, config)
    compact_json(path)
