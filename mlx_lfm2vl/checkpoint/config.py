"""What a checkpoint's JSON files say, as frozen dataclasses; what is not implemented is refused."""

import json
import logging
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from ..errors import CheckpointError, InputError

logger = logging.getLogger(__name__)

ARCHITECTURE = "Lfm2VlForConditionalGeneration"
MAX_INTEGER = 2**31 - 1
MAX_LAYERS = 1000
MAX_TILES = 100  # the candidate grids of more take long to list
MAX_LOOKUP = 31  # tokens guessed at a time
MAX_JSON_BYTES = 64 * 2**20  # a real tokenizer.json has 18 MB


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP2 NaFlex encoder."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int  # layers that run: vision_feature_layer is already applied
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
    feed_forward_size: int  # after the auto-adjust rule
    layer_types: tuple[str, ...]  # "conv" or "full_attention", one per layer
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    norm_eps: float
    conv_L_cache: int  # taps of the short convolution
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. The defaults are plain greedy."""

    temperature: float = 0.0  # 0: always the most likely token
    top_p: float = 1.0  # 1: off
    top_k: int = 0  # 0: off
    min_p: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # 1: off; acts on every token of prompt and answer

    def __post_init__(self) -> None:
        limits = {
            "temperature": 0 <= self.temperature <= 100,
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": 0 < self.repetition_penalty <= 100,
        }
        for name, within in limits.items():
            if not within:
                raise InputError(f"{name} {getattr(self, name)} is out of range")


def check_lookup(lookup: int, sampling: Sampling) -> None:
    """Refuse what would not give the same answer.

    Raises:
        InputError: the number is out of range, or the sampling is not greedy.
    """
    if not 0 <= lookup <= MAX_LOOKUP:
        raise InputError(f"lookup {lookup} is not from 0 to {MAX_LOOKUP}")
    if lookup and (sampling.temperature > 0 or sampling.repetition_penalty != 1):
        raise InputError("lookup needs greedy sampling: temperature 0 and repetition_penalty 1")


@dataclass(frozen=True)
class ModelConfig:
    """The whole network, and what its files say about its special ids and its quantization."""

    vision: VisionConfig
    projector: ProjectorConfig
    text: TextConfig
    image_token_id: int | None  # None: the files leave it to the tokenizer
    eos_token_ids: tuple[int, ...]
    sampling: Sampling  # recommended for this checkpoint
    quantization: dict[str, Any] | None


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes views and patches. Defaults are those of Lfm2VlImageProcessor."""

    encoder_patch_size: int  # pixels
    downsample_factor: int  # patches
    do_image_splitting: bool = True
    min_tiles: int = 2
    max_tiles: int = 10
    tile_size: int = 512  # pixels
    use_thumbnail: bool = True
    min_image_tokens: int = 64
    max_image_tokens: int = 256
    max_pixels_tolerance: float = 2.0
    resample: int = 2  # 2 bilinear, 3 bicubic
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    use_image_special_tokens: bool = True
    jpeg_draft: bool = True  # decode JPEGs at 1/2, 1/4 or 1/8 of their size where that is enough

    def __post_init__(self) -> None:
        block = self.encoder_patch_size * self.downsample_factor
        if self.tile_size % block:
            raise InputError(f"tile_size {self.tile_size} is not a multiple of {block} pixels")
        if not 1 <= self.min_image_tokens <= self.max_image_tokens:
            raise InputError(
                f"min_image_tokens {self.min_image_tokens} and max_image_tokens "
                f"{self.max_image_tokens}: expected 1 <= min <= max"
            )
        if not 1 <= self.min_tiles <= self.max_tiles <= MAX_TILES:
            raise InputError(
                f"min_tiles {self.min_tiles} and max_tiles {self.max_tiles}: "
                f"expected 1 <= min <= max <= {MAX_TILES}"
            )
        if not all(self.image_std):
            raise InputError("image_std is 0")
        if self.resample not in (2, 3):
            raise CheckpointError(
                f"resample {self.resample} is neither 2 (bilinear) nor 3 (bicubic)"
            )


@dataclass(frozen=True)
class ImageOptions:
    """What a caller may change per call; None keeps the checkpoint's value."""

    min_image_tokens: int | None = None
    max_image_tokens: int | None = None
    do_image_splitting: bool | None = None
    min_tiles: int | None = None
    max_tiles: int | None = None
    use_thumbnail: bool | None = None
    jpeg_draft: bool | None = None

    def apply(self, config: ImageConfig) -> ImageConfig:
        """The checkpoint's configuration with these options on top.

        Raises:
            InputError: the values contradict each other.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            config, **{name: value for name, value in given.items() if value is not None}
        )


# Keys of processor files that change nothing here, for the reason given.
IGNORED_PROCESSOR_KEYS = frozenset(
    {
        "do_resize",  # the reference resizes always, whatever the file says
        "max_num_patches",  # follows from max_image_tokens and tile_size; one repo's 256 cut images
        "do_pad",  # views are never padded
        "do_convert_rgb",  # images are always converted
        "size",  # unused by the reference
        "return_row_col_info",
        "return_tensors",
        "data_format",
        "input_data_format",
        "image_processor_type",
        "processor_class",
        "auto_map",
        "disable_grouping",
        "default_to_square",
        "crop_size",
        "do_center_crop",
        "device",
        "image_seq_length",
        "pad_size",
        "feature_extractor_type",
        "chat_template",
    }
)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, too large, or holds no JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has more than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: not a checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one."""
    return read_json(path) if path.exists() else {}


class _Section:
    """One JSON object with typed access that names the key when something is wrong."""

    def __init__(self, values: Any, name: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{name} is missing or not an object")
        self.values, self.name = values, name

    def number(self, key: str, kind: type = int, default: Any = None) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise CheckpointError(f"{self.name} has no {key}")
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(f"{self.name}: {key} is {value!r}, expected {kind.__name__}")
        if kind is int and not 1 <= value <= MAX_INTEGER:
            raise CheckpointError(f"{self.name}: {key} is {value:.6g}, expected 1 to {MAX_INTEGER}")
        if kind is float and not 0 < value < float("inf"):
            raise CheckpointError(f"{self.name}: {key} is {value}, expected a positive number")
        return kind(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        return self.number(key, bool, default)

    def only(self, key: str, *implemented: Any) -> None:
        """Refuse a value that no line of ours implements; an absent key passes."""
        value = self.values.get(key)
        if value is not None and value not in implemented:
            expected = " or ".join(repr(choice) for choice in implemented)
            raise CheckpointError(f"{self.name}: {key} {value!r} is not supported, only {expected}")


def read_model_config(folder: Path, name: str = "") -> ModelConfig:
    """Read `config.json` and `generation_config.json`, in old and new spellings.

    Args:
        folder: the checkpoint.
        name: what the user calls it, a path or repo id: only the name tells an -Extract model.

    Raises:
        CheckpointError: a file is broken, a key is missing, or a value is not implemented.
    """
    values = read_json(folder / "config.json")
    config = _Section(values, "config.json")
    model_type = values.get("model_type")
    if model_type not in ("lfm2_vl", "lfm2-vl"):
        raise CheckpointError(
            f"{folder / 'config.json'} says model_type {model_type!r}: another architecture, "
            "this program runs lfm2_vl (LFM2-VL and LFM2.5-VL)"
        )
    architectures = values.get("architectures") or [ARCHITECTURE]
    if not isinstance(architectures, list) or ARCHITECTURE not in architectures:
        raise CheckpointError(f"config.json: architectures {architectures} is not supported")
    config.only("projector_hidden_act", "gelu")
    text_values = values.get("text_config")
    text = _read_text(_Section(text_values, "text_config"), config)
    generation = read_optional_json(folder / "generation_config.json")
    image_token_id = values.get("image_token_id", values.get("image_token_index"))
    if image_token_id is not None and type(image_token_id) is not int:
        raise CheckpointError(f"config.json: image_token_id is {image_token_id!r}, expected int")
    quantization = values.get("quantization") or values.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise CheckpointError("config.json: quantization is not an object")
    projector = ProjectorConfig(
        hidden_size=config.number("projector_hidden_size"),
        bias=config.flag("projector_bias", True),
        use_layernorm=config.flag("projector_use_layernorm", True),  # absent in LFM2-VL: on
        downsample_factor=config.number("downsample_factor"),
    )
    names = (name, str(values.get("_name_or_path", "")))
    return ModelConfig(
        vision=_read_vision(_Section(values.get("vision_config"), "vision_config"), config),
        projector=projector,
        text=text,
        image_token_id=image_token_id,
        eos_token_ids=_read_eos(generation, values, text_values or {}),
        sampling=_read_sampling(generation, projector, text, names),
        quantization=quantization,
    )


def _read_eos(*sources: dict[str, Any]) -> tuple[int, ...]:
    """End ids of the first file that has some."""
    for source in sources:
        ids = source.get("eos_token_id")
        if ids is None:
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if not all(type(i) is int for i in ids):
            raise CheckpointError(f"eos_token_id is {ids!r}, expected integers")
        return tuple(ids)
    return ()


def _read_vision(section: _Section, config: _Section) -> VisionConfig:
    section.only("model_type", "siglip2_vision_model")
    section.only("hidden_act", "gelu_pytorch_tanh")
    section.only("vision_use_head", False)
    layers = section.number("num_hidden_layers")
    feature_layer = config.values.get("vision_feature_layer")
    feature_layer = -1 if feature_layer is None else feature_layer
    if not isinstance(feature_layer, int) or not -layers <= feature_layer <= -1:
        raise CheckpointError(
            f"config.json: vision_feature_layer {feature_layer!r} is not supported, "
            f"only -1 (all {layers} layers) to -{layers}"
        )
    vision = VisionConfig(
        hidden_size=section.number("hidden_size"),
        intermediate_size=section.number("intermediate_size"),
        num_hidden_layers=layers + 1 + feature_layer,
        num_attention_heads=section.number("num_attention_heads"),
        num_channels=section.number("num_channels"),
        num_patches=section.number("num_patches"),
        patch_size=section.number("patch_size"),
        layer_norm_eps=section.number("layer_norm_eps", float),
    )
    if vision.num_channels != 3:
        raise CheckpointError(f"vision_config: num_channels {vision.num_channels} is not supported")
    if vision.hidden_size % vision.num_attention_heads:
        raise CheckpointError(
            f"vision_config: hidden_size {vision.hidden_size} does not divide by "
            f"num_attention_heads {vision.num_attention_heads}"
        )
    if round(vision.num_patches**0.5) ** 2 != vision.num_patches:
        raise CheckpointError(f"vision_config: num_patches {vision.num_patches} is not a square")
    return vision


def _read_text(section: _Section, config: _Section) -> TextConfig:
    section.only("model_type", "lfm2")
    section.only("conv_bias", False)
    section.only("use_pos_enc", True)
    section.only("block_use_swiglu", True)
    hidden_size = section.number("hidden_size")
    heads = section.number("num_attention_heads")
    if "head_dim" not in section.values and hidden_size % heads:
        raise CheckpointError(
            f"text_config: hidden_size {hidden_size} does not divide by num_attention_heads {heads}"
        )
    key_value_heads = section.number("num_key_value_heads")
    if heads % key_value_heads:
        raise CheckpointError(
            f"text_config: num_attention_heads {heads} does not divide by "
            f"num_key_value_heads {key_value_heads}"
        )
    tie = True
    for values in (section.values, config.values):
        for key in ("tie_embedding", "tie_word_embeddings"):
            tie = tie if values.get(key) is None else values[key]
    return TextConfig(
        vocab_size=section.number("vocab_size"),
        hidden_size=hidden_size,
        feed_forward_size=_feed_forward_size(section),
        layer_types=_layer_types(section),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=section.number("head_dim", default=hidden_size // heads),
        norm_eps=section.number("norm_eps", float),
        conv_L_cache=section.number("conv_L_cache"),
        rope_theta=_rope_theta(section),
        max_position_embeddings=section.number("max_position_embeddings"),
        tie_word_embeddings=bool(tie),
    )


def _feed_forward_size(section: _Section) -> int:
    """The width that w1 really has. Follows Lfm2MLP in transformers 5.23."""
    key = "block_ff_dim" if section.values.get("block_ff_dim") is not None else "intermediate_size"
    width = section.number(key)
    if not section.flag("block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    if section.values.get("block_ffn_dim_multiplier") is not None:
        width = int(section.number("block_ffn_dim_multiplier", float) * width)
        multiple = section.number("block_multiple_of")
        width = -(-width // multiple) * multiple
    return width


def _layer_types(section: _Section) -> tuple[str, ...]:
    count = section.number("num_hidden_layers")
    types, attention = section.values.get("layer_types"), section.values.get("full_attn_idxs")
    if types is None and attention is None:
        raise CheckpointError("text_config has no layer_types")
    if count > MAX_LAYERS:
        raise CheckpointError(f"text_config: {count} layers are more than {MAX_LAYERS}")
    if types is None and not isinstance(attention, list):
        raise CheckpointError(f"text_config: full_attn_idxs is {attention!r}, expected a list")
    if types is not None and not (
        isinstance(types, list) and all(isinstance(kind, str) for kind in types)
    ):
        raise CheckpointError("text_config: layer_types is not a list of names")
    if types is None:
        types = ["full_attention" if i in (attention or ()) else "conv" for i in range(count)]
    unknown = set(types) - {"conv", "full_attention"}
    if unknown or len(types) != count:
        raise CheckpointError(
            f"text_config: layer_types has {len(types)} entries for {count} layers"
            if not unknown
            else f"text_config: layer_types {sorted(unknown)} are not supported"
        )
    return tuple(types)


def _rope_theta(section: _Section) -> float:
    if section.values.get("rope_scaling"):
        raise CheckpointError("text_config: rope_scaling is not supported")
    parameters = section.values.get("rope_parameters")
    if parameters is None:
        return section.number("rope_theta", float)
    rope = _Section(parameters, "text_config.rope_parameters")
    rope.only("rope_type", "default")
    rope.only("type", "default")
    rope.only("partial_rotary_factor", 1)
    return rope.number("rope_theta", float)


def _read_sampling(
    generation: dict[str, Any],
    projector: ProjectorConfig,
    text: TextConfig,
    names: tuple[str, ...],
) -> Sampling:
    """The sampling a checkpoint is meant to be used with.

    `generation_config.json` decides if it says something; the published ones hold only ids. Then
    the recommendations of Liquid AI's model cards count.
    """
    known = {field.name for field in fields(Sampling)} | {"do_sample"}
    given = {key: value for key, value in generation.items() if key in known and value is not None}
    if given:
        if not given.pop("do_sample", "temperature" in given):
            given = {"repetition_penalty": given.get("repetition_penalty", 1.0)}
        else:
            given.setdefault("temperature", 1.0)
        try:
            return Sampling(**{**given, "top_k": int(given.get("top_k", 0))})
        except (InputError, TypeError, ValueError) as error:
            raise CheckpointError(f"generation_config.json: {error}") from None
    # The folder's or repo's own name: a path may run through anything.
    if any("-extract" in Path(name).name.lower() for name in names):
        return Sampling()
    if len(text.layer_types) == 30 and not projector.use_layernorm:  # LFM2.5-VL-3B
        return Sampling(temperature=0.2, top_k=50)
    return Sampling(temperature=0.1, min_p=0.15, repetition_penalty=1.05)


def read_image_config(folder: Path) -> ImageConfig:
    """Read the image settings, wherever the checkpoint keeps them.

    They sit in `processor_config.json` (flat in LFM2-VL, under `image_processor` in LFM2.5-VL) or
    in `preprocessor_config.json` (MLX repositories); `config.json` repeats most of them. The
    first of these that says something wins.

    Raises:
        CheckpointError: a file is broken or asks for something that is not implemented.
    """
    model = read_json(folder / "config.json")
    outer = read_optional_json(folder / "processor_config.json")
    legacy = read_optional_json(folder / "preprocessor_config.json")
    if not outer and not legacy:
        raise CheckpointError(f"{folder} has no processor_config.json")
    nested = outer.get("image_processor") or {}
    if not isinstance(nested, dict):
        raise CheckpointError("processor_config.json: image_processor is not an object")
    processor = {**legacy, **{k: v for k, v in outer.items() if k != "image_processor"}, **nested}
    known = {field.name for field in fields(ImageConfig)} - {"jpeg_draft"}  # a choice of ours
    section = _Section(processor, "processor_config.json")
    section.only("do_rescale", True)
    section.only("do_normalize", True)
    unknown = set(processor) - known - IGNORED_PROCESSOR_KEYS - {"do_rescale", "do_normalize"}
    unknown -= {"patch_size"}
    if unknown:
        logger.warning(
            "unknown keys in the processor files are ignored: %s", ", ".join(sorted(unknown))
        )
    merged = _Section({**_vision_geometry(model), **model, **processor}, "processor_config.json")
    values: dict[str, Any] = {}
    for field in fields(ImageConfig):
        required = field.default is MISSING
        if merged.values.get(field.name) is None and not required:
            continue
        if field.name in ("image_mean", "image_std"):
            values[field.name] = _three_numbers(merged.values[field.name], field.name)
        else:
            values[field.name] = merged.number(field.name, cast(type, field.type))
    if processor.get("image_processor_type") == "Siglip2ImageProcessor":
        # That class only cut patches; the resize before it was Pillow's default, bicubic.
        values["resample"] = 3
    try:
        return ImageConfig(**values)
    except InputError as error:
        raise CheckpointError(f"processor_config.json: {error}") from None


def _vision_geometry(model: dict[str, Any]) -> dict[str, Any]:
    vision = model.get("vision_config")
    patch_size = vision.get("patch_size") if isinstance(vision, dict) else None
    return {"encoder_patch_size": patch_size}


def _three_numbers(value: Any, key: str) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
        raise CheckpointError(f"processor_config.json: {key} is {value!r}, expected three numbers")
    return tuple(float(v) for v in values)


def restore_tiling(image: ImageConfig, folder: Path) -> ImageConfig:
    """Undo the tiling flags that published MLX conversions switched off by mistake.

    Measured by others on such repositories: ScreenSpot-v2 falls from 75 % to 33-44 % without
    tiles. `config.json` usually still carries the official flags; LFM2-VL-450M is the one
    member of the family without a thumbnail.
    """
    model = read_json(folder / "config.json")
    text, projector_norm = model.get("text_config") or {}, model.get("projector_use_layernorm")
    first_450m = text.get("hidden_size") == 1024 and projector_norm in (None, True)
    thumbnail = not first_450m
    if model.get("do_image_splitting") is True and isinstance(model.get("use_thumbnail"), bool):
        thumbnail = model["use_thumbnail"]
    restored = replace(
        image, do_image_splitting=True, use_thumbnail=image.use_thumbnail or thumbnail
    )
    if restored != image:
        logger.warning(
            "this MLX repository switches off tiling (a known conversion mistake); using the "
            "official do_image_splitting=true, use_thumbnail=%s",
            str(restored.use_thumbnail).lower(),
        )
    return restored
