"""A checkpoint's JSON files as frozen dataclasses; settings we do not implement raise an error."""

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError
from ..options import Sampling
from .json_file import MAX_INTEGER, Section, read_json, read_optional_json, shown

logger = logging.getLogger(__name__)

ARCHITECTURE = "Lfm2VlForConditionalGeneration"
# Far above the family's largest model, and low enough that a network of these sizes can be built
# before its weights are read.
MAX_LAYERS = 1000
MAX_SIZE = 2**20  # of a hidden or inner layer, and of a table of positions
MAX_INNER = 2**24  # of an inner layer whose size is worked out
MAX_VOCABULARY = 2**24
MAX_HEADS = 2**12
MAX_PATCH = 2**10  # pixels
MAX_FACTOR = 2**5
MAX_TAPS = 2**10
MAX_MULTIPLIER = 2**10
TIES = ("tie_embedding", "tie_word_embeddings")  # keys; the last one that is set wins


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP2 NaFlex encoder."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int  # layers that run, after vision_feature_layer is applied
    num_attention_heads: int
    num_channels: int
    num_patches: int  # rows of the position table, a square number
    patch_size: int  # pixels
    layer_norm_eps: float


@dataclass(frozen=True)
class ProjectorConfig:
    """Connector between the encoder and the decoder."""

    hidden_size: int
    bias: bool
    use_layernorm: bool
    downsample_factor: int  # side, in patches, of the block that becomes one image token


@dataclass(frozen=True)
class TextConfig:
    """LFM2 decoder."""

    vocab_size: int  # rows of the embedding; the tokenizer may know fewer ids
    hidden_size: int
    feed_forward_size: int  # after the block_auto_adjust_ff_dim rule
    layer_types: tuple[str, ...]  # one per layer, "conv" or "full_attention"
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    norm_eps: float
    conv_L_cache: int  # taps of the short convolution
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool


@dataclass(frozen=True)
class ModelConfig:
    """The whole network, with its special token ids, sampling and quantization."""

    vision: VisionConfig
    projector: ProjectorConfig
    text: TextConfig
    image_token_id: int | None  # None: only the tokenizer knows it
    eos_token_ids: tuple[int, ...]
    sampling: Sampling  # recommended for this checkpoint
    quantization: dict[str, Any] | None  # as in config.json; None: not quantized
    is_extract: bool = False  # an -Extract model, which only its name tells from its base


def read_model_config(folder: Path, name: str = "") -> ModelConfig:
    """Read `config.json` and `generation_config.json`, in old and new spellings.

    Args:
        folder: the checkpoint.
        name: the path or repo id that the user gave. Only the name tells an -Extract model, which
            has its own recommended sampling and form of question.

    Raises:
        CheckpointError: a file is broken, a key is missing, or a value is not implemented.
    """
    values = read_json(folder / "config.json")
    config = Section(values, "config.json")
    model_type = values.get("model_type")
    if model_type not in ("lfm2_vl", "lfm2-vl"):
        raise CheckpointError(
            f"{folder / 'config.json'} says model_type {shown(model_type)}, another architecture; "
            "this program runs lfm2_vl (LFM2-VL and LFM2.5-VL)"
        )
    architectures = values.get("architectures") or [ARCHITECTURE]
    if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
        raise CheckpointError(
            f"config.json: architectures {shown(architectures)} is not supported, "
            f"only {ARCHITECTURE}"
        )
    config.only("projector_hidden_act", "gelu")
    text_values = values.get("text_config")
    text = _read_text(Section(text_values, "text_config"), config)
    generation = read_optional_json(folder / "generation_config.json")
    image_token_id = values.get("image_token_id", values.get("image_token_index"))
    if image_token_id is not None and type(image_token_id) is not int:
        raise CheckpointError(
            f"config.json: image_token_id is {shown(image_token_id)}, expected int"
        )
    quantization = values.get("quantization") or values.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise CheckpointError("config.json: quantization is not a JSON object")
    projector = ProjectorConfig(
        hidden_size=config.integer("projector_hidden_size", most=MAX_SIZE),
        bias=config.flag("projector_bias", True),
        use_layernorm=config.flag("projector_use_layernorm", True),  # absent in LFM2-VL: on
        downsample_factor=config.integer("downsample_factor", most=MAX_FACTOR),
    )
    is_extract = _is_extract(name, str(values.get("_name_or_path", "")))
    return ModelConfig(
        vision=_read_vision(Section(values.get("vision_config"), "vision_config"), config),
        projector=projector,
        text=text,
        image_token_id=image_token_id,
        eos_token_ids=_read_eos(generation, values, text_values or {}),
        sampling=_read_sampling(generation, projector, text, is_extract=is_extract),
        quantization=quantization,
        is_extract=is_extract,
    )


def _is_extract(*names: str) -> bool:
    """Whether a name is that of an -Extract model; "-extract" in a parent folder means nothing."""
    return any("-extract" in Path(name).name.lower() for name in names)


def _read_eos(*sources: dict[str, Any]) -> tuple[int, ...]:
    """Return the end token ids of the first source that has any."""
    for source in sources:
        ids = source.get("eos_token_id")
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if not all(type(i) is int for i in ids):
            raise CheckpointError(f"eos_token_id is {shown(ids)}, expected integers")
        return tuple(ids)
    return ()


def _read_vision(section: Section, config: Section) -> VisionConfig:
    section.only("model_type", "siglip2_vision_model")
    section.only("hidden_act", "gelu_pytorch_tanh")
    section.only("vision_use_head", False)
    layers = section.integer("num_hidden_layers", most=MAX_LAYERS)
    feature_layer = config.values.get("vision_feature_layer")
    feature_layer = -1 if feature_layer is None else feature_layer
    if type(feature_layer) is not int or not -layers <= feature_layer <= -1:
        raise CheckpointError(
            f"config.json: vision_feature_layer {shown(feature_layer)} is not supported, "
            f"only -1 (all {layers} layers) to -{layers}"
        )
    vision = VisionConfig(
        hidden_size=section.integer("hidden_size", most=MAX_SIZE),
        intermediate_size=section.integer("intermediate_size", most=MAX_SIZE),
        num_hidden_layers=layers + 1 + feature_layer,
        num_attention_heads=section.integer("num_attention_heads", most=MAX_HEADS),
        num_channels=section.integer("num_channels"),
        num_patches=section.integer("num_patches", most=MAX_SIZE),
        patch_size=section.integer("patch_size", most=MAX_PATCH),
        layer_norm_eps=section.number("layer_norm_eps"),
    )
    if vision.num_channels != 3:
        raise CheckpointError(
            f"vision_config: num_channels {vision.num_channels} is not supported, only 3"
        )
    if vision.hidden_size % vision.num_attention_heads:
        raise CheckpointError(
            f"vision_config: hidden_size {vision.hidden_size} is not divisible by "
            f"num_attention_heads {vision.num_attention_heads}"
        )
    if round(vision.num_patches**0.5) ** 2 != vision.num_patches:
        raise CheckpointError(f"vision_config: num_patches {vision.num_patches} is not a square")
    return vision


def _read_text(section: Section, config: Section) -> TextConfig:
    section.only("model_type", "lfm2")
    section.only("conv_bias", False)
    section.only("use_pos_enc", True)
    section.only("block_use_swiglu", True)
    hidden_size = section.integer("hidden_size", most=MAX_SIZE)
    heads = section.integer("num_attention_heads", most=MAX_HEADS)
    if "head_dim" not in section.values and hidden_size % heads:
        raise CheckpointError(
            f"text_config: hidden_size {hidden_size} is not divisible by "
            f"num_attention_heads {heads}"
        )
    key_value_heads = section.integer("num_key_value_heads", most=MAX_HEADS)
    if heads % key_value_heads:
        raise CheckpointError(
            f"text_config: num_attention_heads {heads} is not divisible by "
            f"num_key_value_heads {key_value_heads}"
        )
    tie = True
    for place in (section, config):
        for key in TIES:
            tie = place.flag(key, tie)
    return TextConfig(
        vocab_size=section.integer("vocab_size", most=MAX_VOCABULARY),
        hidden_size=hidden_size,
        feed_forward_size=_feed_forward_size(section),
        layer_types=_layer_types(section),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=section.integer("head_dim", default=hidden_size // heads, most=MAX_SIZE),
        norm_eps=section.number("norm_eps"),
        conv_L_cache=section.integer("conv_L_cache", most=MAX_TAPS),
        rope_theta=_rope_theta(section),
        max_position_embeddings=section.integer("max_position_embeddings"),
        tie_word_embeddings=tie,
    )


def _feed_forward_size(section: Section) -> int:
    """Return the real number of rows of w1. Follows Lfm2MLP in transformers 5.23."""
    key = "block_ff_dim" if section.values.get("block_ff_dim") is not None else "intermediate_size"
    width = section.integer(key, most=MAX_SIZE)
    if not section.flag("block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    if section.values.get("block_ffn_dim_multiplier") is not None:
        width = int(section.number("block_ffn_dim_multiplier", most=MAX_MULTIPLIER) * width)
        multiple = section.integer("block_multiple_of", most=MAX_SIZE)
        width = -(-width // multiple) * multiple
    if not 1 <= width <= MAX_INNER:
        raise CheckpointError(
            f"text_config: the feed-forward layers have {width} rows, expected 1 to {MAX_INNER}"
        )
    return width


def _layer_types(section: Section) -> tuple[str, ...]:
    count = section.integer("num_hidden_layers", most=MAX_LAYERS)
    types, attention = section.values.get("layer_types"), section.values.get("full_attn_idxs")
    if types is None and attention is None:
        raise CheckpointError("text_config has neither layer_types nor full_attn_idxs")
    if types is None and not (
        isinstance(attention, list) and all(type(i) is int for i in attention)
    ):
        raise CheckpointError(
            f"text_config: full_attn_idxs is {shown(attention)}, expected a list of integers"
        )
    if types is not None and not (
        isinstance(types, list) and all(isinstance(kind, str) for kind in types)
    ):
        raise CheckpointError("text_config: layer_types is not a list of strings")
    if types is None:
        attending = set(attention or ())
        types = ["full_attention" if i in attending else "conv" for i in range(count)]
    unknown = set(types) - {"conv", "full_attention"}
    if unknown or len(types) != count:
        raise CheckpointError(
            f"text_config: layer_types has {len(types)} entries for {count} layers"
            if not unknown
            else f"text_config: layer_types {shown(sorted(unknown))} are not supported, only conv "
            "and full_attention"
        )
    return tuple(types)


def _rope_theta(section: Section) -> float:
    if section.values.get("rope_scaling"):
        raise CheckpointError("text_config: rope_scaling is not supported")
    parameters = section.values.get("rope_parameters")
    if parameters is None:
        return section.number("rope_theta")
    rope = Section(parameters, "text_config.rope_parameters")
    rope.only("rope_type", "default")
    rope.only("type", "default")
    rope.only("partial_rotary_factor", 1)
    return rope.number("rope_theta")


def _read_sampling(
    generation: dict[str, Any],
    projector: ProjectorConfig,
    text: TextConfig,
    *,
    is_extract: bool,
) -> Sampling:
    """Return the sampling recommended for a checkpoint.

    `generation_config.json` takes precedence. The published ones hold only token ids, so for these
    the recommendations of Liquid AI's model cards apply.
    """
    known = {field.name for field in fields(Sampling)} | {"do_sample"}
    section = Section(generation, "generation_config.json")
    given = {key: value for key, value in generation.items() if key in known and value is not None}
    if given:
        for key in set(given) - {"do_sample"}:
            section.within(key, -MAX_INTEGER, MAX_INTEGER)
        if given.get("top_k", 0) % 1:
            raise CheckpointError(
                f"generation_config.json: top_k is {shown(given['top_k'])}, expected int"
            )
        is_sampled = section.flag("do_sample", "temperature" in given)
        given.pop("do_sample", None)
        if not is_sampled:
            given = {"repetition_penalty": given.get("repetition_penalty", 1.0)}
        else:
            given.setdefault("temperature", 1.0)
        try:
            return Sampling(**{**given, "top_k": int(given.get("top_k", 0))})
        except (InputError, TypeError, ValueError) as error:
            raise CheckpointError(f"generation_config.json: {error}") from None
    if is_extract:
        return Sampling()
    if len(text.layer_types) == 30 and not projector.use_layernorm:  # LFM2.5-VL-3B
        return Sampling(temperature=0.2, top_k=50)
    return Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)
