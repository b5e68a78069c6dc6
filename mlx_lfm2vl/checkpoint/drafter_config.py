"""The `config.json` of a DSpark drafter; what is not implemented raises an error that names it.

Keys are those of the published drafters for LFM2 models. Other packagings of the same network, and
other kinds of drafters, are told by theirs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .config import MAX_HEADS, MAX_LAYERS, MAX_SIZE, MAX_VOCABULARY
from .json_file import Section, read_json, shown

MAX_PROPOSALS = 31  # per round; the target verifies one position more, which its cache can trim
MAX_RANK = 2**14
MAX_POSITIONS = 128_000  # as published; other programs read it, and the target limits more
# What other programs write, and what it is.
FOREIGN = {
    "speculators_config": "of the speculators library",
    "projector_type": "of SpecForge",
    "draft_vocab_size": "with a vocabulary of its own",
    "target_layer_ids": "of DeepSpec, with its settings outside dflash_config",
}


@dataclass(frozen=True)
class DrafterConfig:
    """A DSpark drafter and the target that it was made for."""

    hidden_size: int  # of the target too
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    vocab_size: int  # of the target too
    rope_theta: float
    half_split_rope: bool  # pairs i and i + D/2 are rotated; False: 2i and 2i + 1
    block_size: int  # proposals per round
    markov_rank: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]  # layers of the target whose outputs are read, ascending
    num_target_layers: int
    has_confidence: bool
    quantization: dict[str, Any] | None  # as in config.json; None: not quantized


def is_drafter(values: dict[str, Any]) -> bool:
    """Tell whether the values of a `config.json` are those of a drafter of any kind."""
    return "dflash_config" in values or any(key in values for key in FOREIGN)


def read_drafter_config(folder: Path) -> DrafterConfig:
    """Read the `config.json` of a drafter.

    Raises:
        CheckpointError: the file is broken, is not a drafter's, or asks for what is not
            implemented.
    """
    path = folder / "config.json"
    values = read_json(path)
    for key, what in FOREIGN.items():
        if key in values:
            raise CheckpointError(
                f"{path} has {key}: a drafter {what}, which is not read; take one in the layout of "
                "LiquidAI's -DSpark repos"
            )
    if "dflash_config" not in values:
        raise CheckpointError(f"{path} has no dflash_config: it is not a DSpark drafter")
    if not values.get("markov_rank"):
        raise CheckpointError(
            f"{path} has no markov_rank: a DFlash drafter without a Markov head is not supported"
        )
    config, block = Section(values, "config.json"), values["dflash_config"]
    dflash = Section(block, "dflash_config")
    config.only("hidden_act", "silu")
    config.only("markov_head_type", "vanilla")
    config.only("attention_bias", False)
    config.only("sample_from_anchor", True)
    config.only("rope_scaling")
    dflash.only("causal", False)
    rope = values.get("rope_parameters")
    theta = Section({**values, **rope}, "config.json") if isinstance(rope, dict) else config
    theta.only("rope_type", "default")
    layers = config.integer("num_hidden_layers", most=MAX_LAYERS)
    kinds = values.get("layer_types", ["full_attention"] * layers)
    if kinds != ["full_attention"] * layers:
        raise CheckpointError(
            f"config.json: layer_types {shown(kinds)} is not supported, only {layers} times "
            "'full_attention'"
        )
    heads = config.integer("num_attention_heads", most=MAX_HEADS)
    shared = config.integer("num_key_value_heads", heads, most=MAX_HEADS)
    size = config.integer("hidden_size", most=MAX_SIZE)
    if heads % shared:
        raise CheckpointError(f"config.json: {heads} heads cannot share {shared} of keys")
    quantization = values.get("quantization") or values.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise CheckpointError("config.json: quantization is not a JSON object")
    vocabulary = config.integer("vocab_size", most=MAX_VOCABULARY)
    depth = dflash.integer("num_target_layers", most=MAX_LAYERS)
    return DrafterConfig(
        hidden_size=size,
        intermediate_size=config.integer("intermediate_size", most=MAX_SIZE),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        head_dim=config.integer("head_dim", max(1, size // heads), most=MAX_SIZE),
        rms_norm_eps=config.number("rms_norm_eps", 1e-5),
        vocab_size=vocabulary,
        rope_theta=theta.number("rope_theta"),
        half_split_rope=config.flag("rope_is_neox_style", True),
        block_size=config.integer("block_size", most=MAX_PROPOSALS),
        markov_rank=config.integer("markov_rank", most=MAX_RANK),
        mask_token_id=_mask(dflash, vocabulary),
        target_layer_ids=_layers(block.get("target_layer_ids"), depth),
        num_target_layers=depth,
        has_confidence=config.flag("enable_confidence_head", False),
        quantization=quantization,
    )


def drafter_values(config: DrafterConfig, dtype: str) -> dict[str, Any]:
    """Return the `config.json` of a drafter that is not quantized, in the published layout.

    Args:
        config: of the drafter.
        dtype: of its weights.
    """
    return {
        "architectures": ["Lfm2DSparkDraftModel"],
        "model_type": "qwen3",  # of the published files; the layers are Qwen3's
        "dtype": dtype,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_theta": config.rope_theta,
        "rope_is_neox_style": config.half_split_rope,
        "layer_types": ["full_attention"] * config.num_hidden_layers,
        "block_size": config.block_size,
        "dflash_config": {
            "mask_token_id": config.mask_token_id,
            "target_layer_ids": list(config.target_layer_ids),
            "num_target_layers": config.num_target_layers,
        },
        "markov_rank": config.markov_rank,
        "markov_head_type": "vanilla",
        "enable_confidence_head": config.has_confidence,
    }


def _mask(dflash: Section, vocabulary: int) -> int:
    value = dflash.values.get("mask_token_id")
    if type(value) is not int or not 0 <= value < vocabulary:
        raise CheckpointError(
            f"dflash_config: mask_token_id is {shown(value)}, expected 0 to {vocabulary - 1}"
        )
    return value


def _layers(value: Any, depth: int) -> tuple[int, ...]:
    """Check the layers of the target whose outputs are read: ascending, and without the last."""
    is_list = isinstance(value, list) and value and all(type(number) is int for number in value)
    if not is_list or sorted(set(value)) != value or value[0] < 0 or value[-1] >= depth - 1:
        raise CheckpointError(
            f"dflash_config: target_layer_ids is {shown(value)}, expected ascending numbers from 0 "
            f"to {depth - 2}"
        )
    return tuple(value)
