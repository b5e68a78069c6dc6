"""Write the untrained demo model: a tokenizer trained on a corpus, settings and random weights.

usage: python make_model.py CORPUS OUT [--seed 0]

The result is a complete LFM2-VL checkpoint of about 3.8 million parameters in the Hub's layout.
"""

import argparse
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.model.language import Attention
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.saving import write_weights
from mlx_lfm2vl.whole_folder import new_folder

MARKERS = {
    "pad_token": "<|pad|>",
    "bos_token": "<|startoftext|>",
    "eos_token": "<|im_end|>",
}
IMAGE_MARKERS = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail": "<|img_thumbnail|>",
}
LABELS = [f"<|img_row_{row}_col_{col}|>" for row in range(1, 11) for col in range(1, 11)]
SPECIAL = [*MARKERS.values(), "<|im_start|>", *IMAGE_MARKERS.values(), *LABELS]
VOCABULARY = 640
WAVES, HEIGHT = 11, 1.0  # number and amplitude of cosines along each side of the position table
NOISE = 0.3  # ratio of random to structured initial weights in the decoder's attention

# Capitals and digits stay single tokens, so that the model reads print by spelling it.
PIECES = Regex(r" ?\p{Lu}?\p{Ll}+|\p{Lu}|\p{N}| ?[^\s\p{L}\p{N}]|\s+")

TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- "<|im_start|>" + message["role"] + "\\n" -}}
  {%- if message["content"] is string -%}
    {{- message["content"] -}}
  {%- else -%}
    {%- for item in message["content"] -%}
      {%- if item["type"] == "image" -%}
        {{- "<image>" -}}
      {%- elif item["type"] == "text" -%}
        {{- item["text"] -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""

TEXT = {
    "model_type": "lfm2",
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "num_hidden_layers": 5,
    "layer_types": ["conv", "full_attention", "conv", "full_attention", "full_attention"],
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 448,
    "block_auto_adjust_ff_dim": False,
    "norm_eps": 1e-5,
    "conv_L_cache": 3,
    "conv_bias": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "max_position_embeddings": 4096,
}
VISION = {
    "model_type": "siglip2_vision_model",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_channels": 3,
    "num_patches": 144,  # 12 x 12, interpolated for views of about 16 x 18
    "patch_size": 8,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": False,
}
IMAGE = {
    "image_processor_type": "Lfm2VlImageProcessor",
    "encoder_patch_size": 8,
    "downsample_factor": 2,
    "do_image_splitting": True,
    "tile_size": 128,
    "min_tiles": 2,
    "max_tiles": 6,
    "use_thumbnail": True,
    "min_image_tokens": 64,
    "max_image_tokens": 72,
    "max_pixels_tolerance": 1.0,
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def make_tokenizer(corpus: Path) -> Tokenizer:
    """Train a byte-level BPE on a corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train([str(corpus)], trainer)
    return tokenizer


def begin_by_looking_alike(layer: Attention, seed: int) -> None:
    """Initialize an attention layer so that it attends to similar positions and copies from them.

    Queries and keys of a group share an orthogonal projection, and the output projection inverts
    that of the values. Follows Trockman and Kolter, "Mimetic Initialization of Self-Attention
    Layers" (arXiv 2305.09828). The norm of the queries is doubled, because the heads are so narrow
    that no position would stand out otherwise.
    """
    heads, groups = layer.num_heads, layer.num_key_value_heads
    rows, size = layer.k_proj.weight.shape
    random = np.random.default_rng(seed)

    def orthogonal() -> np.ndarray:
        return np.linalg.qr(random.normal(size=(size, rows)))[0].T

    def for_every_head(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(groups, -1, size).repeat(heads // groups, axis=0).reshape(-1, size)

    keys, values = orthogonal(), orthogonal()
    weights = {
        "q_proj": for_every_head(keys),
        "k_proj": keys,
        "v_proj": values,
        "out_proj": for_every_head(values).T / (heads // groups),
    }
    for name, weight in weights.items():
        noise = NOISE / size**0.5 * random.normal(size=weight.shape)
        layer[name].weight = mx.array((weight + noise).astype(np.float32))
    layer.q_layernorm.weight = 2 * layer.q_layernorm.weight


def mark_positions(table: nn.Embedding, seed: int) -> None:
    """Initialize the tower's position vectors as cosines of height and width instead of noise.

    Small random vectors did not show behind the connector, and the model could not learn to say
    where things are.
    """
    count, size = table.weight.shape
    side = round(count**0.5)
    places = (np.arange(side) + 0.5) / side
    waves = HEIGHT * np.cos(np.pi * places[:, None] * np.arange(1, WAVES + 1))  # (side, WAVES)
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, 2 * WAVES)))[0].T
    rows, columns = waves @ directions[:WAVES], waves @ directions[WAVES:]
    table.weight = table.weight + mx.array(
        (rows[:, None] + columns).reshape(count, size).astype(np.float32)
    )


def make_weights(folder: Path, seed: int) -> Lfm2VL:
    """Make the model of a folder's settings, with random weights."""
    mx.random.seed(seed)
    model = Lfm2VL(read_model_config(folder), read_image_config(folder))
    for number, layer in enumerate(model.layers):
        if layer.is_attention:
            begin_by_looking_alike(layer.self_attn, seed + number)
    mark_positions(model.vision_tower.embeddings.position_embedding, seed)
    mx.eval(model.parameters())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="text file to train the tokenizer on")
    parser.add_argument("out", type=Path, help="checkpoint folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights; default: 0")
    options = parser.parse_args()
    tokenizer = make_tokenizer(options.corpus)
    eos = tokenizer.token_to_id(MARKERS["eos_token"])
    ids = {
        "bos_token_id": tokenizer.token_to_id(MARKERS["bos_token"]),
        "eos_token_id": eos,
        "pad_token_id": tokenizer.token_to_id(MARKERS["pad_token"]),
    }
    config = {
        "architectures": ["Lfm2VlForConditionalGeneration"],
        "model_type": "lfm2_vl",
        "dtype": "float32",
        "image_token_id": tokenizer.token_to_id(IMAGE_MARKERS["image_token"]),
        "downsample_factor": 2,
        "projector_hidden_size": 256,
        "projector_bias": True,
        "projector_hidden_act": "gelu",
        "projector_use_layernorm": False,
        "tie_word_embeddings": True,
        "text_config": {**TEXT, **ids},
        "vision_config": VISION,
    }
    files = {
        "config.json": config,
        "generation_config.json": {**ids, "do_sample": False},
        "processor_config.json": {"image_processor": IMAGE, "processor_class": "Lfm2VlProcessor"},
        "tokenizer_config.json": {**MARKERS, **IMAGE_MARKERS},
    }
    with new_folder(options.out, overwrite=True) as folder:
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        for name, values in files.items():
            (folder / name).write_text(json.dumps(values, indent=2) + "\n")
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        model = make_weights(folder, options.seed)
        write_weights(model, folder)
    count = sum(value.size for value in named_arrays(model.parameters()).values())
    print(f"{options.out}: {count:,} parameters, {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
