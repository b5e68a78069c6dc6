"""Tiny targets with golden drafters, whose weights are the same on every machine."""

import json
import shutil
import zlib
from itertools import cycle
from pathlib import Path

import mlx.core as mx
import numpy as np
from conftest import GOLDEN, edit_json, load_tensors

from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.checkpoint.drafter_config import DrafterConfig
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.model.lfm2vl import Lfm2VL

DRAFTERS = GOLDEN / "drafters"
CONFIG = DrafterConfig(  # for the target `networks.TEXT`
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    vocab_size=100,
    rope_theta=1e6,
    half_split_rope=False,
    block_size=4,
    markov_rank=16,
    mask_token_id=99,
    target_layer_ids=(0, 1, 2),
    num_target_layers=4,
    has_confidence=True,
    quantization=None,
)
# Of each golden drafter: size of the target, its attention layers, whether its head is its own.
TARGETS = {
    "tied": (32, (2, 4), False),
    "own_head": (32, (0, 3), True),
    "quantized": (64, (2, 4), False),
    "half_split": (32, (2, 4), False),
    "wrapped_bf16": (32, (2, 4), False),
}
LAYERS = 6


class Script:
    """A drafter that knows the answer, and spoils what it drafts as it is told.

    Args:
        said: the tokens of the answer.
        kinds: of its drafts, again and again: how many tokens are right, and how many wrong ones
            follow.
        rests: whether it rests, each time it is asked.
    """

    taps = ()

    def __init__(self, said, kinds, rests=(False,)):
        self.said, self.count = said, 0
        self.kinds, self._rests = cycle(kinds), cycle(rests)

    @property
    def rests(self):
        return next(self._rests)

    def add(self, _token):
        self.count += 1

    def skip(self, tokens):
        self.count += len(tokens)

    def cut(self, length):
        pass

    def read(self, outputs):
        pass

    def queue(self, _anchor, _outputs, _verified):
        return None

    def draft(self, most):
        right, wrong = next(self.kinds)
        said = self.said[self.count : self.count + right]
        return [*said, *[token % 90 + 1 for token in range(wrong)]][:most]


def make_target(folder: Path, name: str) -> Path:
    """Write the target of a golden drafter, as mlx-vlm reads it too."""
    size, attentions, own_head = TARGETS[name]
    shutil.copytree(GOLDEN / "old_names" / "checkpoint", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    text = {**config["text_config"], "hidden_size": size, "num_hidden_layers": LAYERS}
    text |= {"full_attn_idxs": list(attentions), "num_attention_heads": 4, "num_heads": 4}
    ties = ("tie_embedding", "tie_word_embeddings")
    text |= {
        "num_key_value_heads": 2,
        "block_ff_dim": 2 * size,
        **dict.fromkeys(ties, not own_head),
    }
    text |= {name: size for name in ("block_dim", "conv_dim", "conv_dim_out")}
    edit_json(folder / "config.json", text_config=text, tie_word_embeddings=not own_head)
    model = Lfm2VL(read_model_config(folder), read_image_config(folder))
    weights = {}
    for path, value in named_arrays(model.parameters()).items():
        weight = _drawn(path, value.shape)
        if path.endswith("conv.conv.weight"):
            weight = weight.transpose(0, 2, 1)
        weights[path if path.startswith("lm_head") else f"model.{path}"] = mx.array(weight)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    return folder


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    weight = random.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return 0.1 * weight + ("bias" not in name)
    return weight * np.float32(1.5 / float(np.prod(shape[1:])) ** 0.5)


def expected(name: str) -> dict[str, np.ndarray]:
    """What mlx-vlm 0.7.10 makes of a golden drafter."""
    return load_tensors(DRAFTERS / f"{name}.expected.safetensors")
