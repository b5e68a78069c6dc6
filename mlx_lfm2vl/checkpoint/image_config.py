"""A checkpoint's image settings; those we do not implement raise an error."""

import logging
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from ..errors import CheckpointError, InputError
from ..options import ImageOptions
from .json_file import MAX_NUMBER, Section, read_json, read_optional_json, shown
from .names import some
from .redownload import download_again

logger = logging.getLogger(__name__)

MAX_TILES = 100  # listing the candidate grids of more tiles takes long
MAX_PIXELS = (
    2**25
)  # of all tiles of an image, and of a view; 100 of the family's tiles have 2**24.6


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes views and patches. Defaults are those of Lfm2VlImageProcessor.

    Raises:
        InputError: a value is out of range, or two values contradict each other.
        CheckpointError: `resample` is not implemented.
    """

    encoder_patch_size: int  # side in pixels
    downsample_factor: int  # side, in patches, of the block that becomes one image token
    do_image_splitting: bool = True
    min_tiles: int = 2
    max_tiles: int = 10
    tile_size: int = 512  # side in pixels
    use_thumbnail: bool = True
    min_image_tokens: int = 64
    max_image_tokens: int = 256
    max_pixels_tolerance: float = 2.0  # images larger than this many full views are cut into tiles
    resample: int = 2  # 2 bilinear, 3 bicubic
    rescale_factor: float = 1 / 255  # for uint8 pixels, applied before mean and std
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    use_image_special_tokens: bool = True
    jpeg_draft: bool = True  # decode JPEGs at 1/2, 1/4 or 1/8 of their size if that is enough
    background: str | None = None  # color below transparent pixels; None chooses white or black

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
        tiled = self.max_tiles * self.tile_size**2
        whole = self.max_image_tokens * block**2
        if max(tiled, whole) > MAX_PIXELS:
            raise InputError(
                f"max_tiles {self.max_tiles} of tile_size {self.tile_size}, or max_image_tokens "
                f"{self.max_image_tokens}, allow images of more than {MAX_PIXELS} pixels"
            )
        if not all(self.image_std):
            raise InputError("image_std holds a 0, expected numbers other than 0")
        ends = [0.0, 255 * self.rescale_factor]
        if any(
            not abs((end - mean) / std) <= MAX_NUMBER
            for end in ends
            for mean, std in zip(self.image_mean, self.image_std, strict=True)
        ):
            raise InputError(
                "rescale_factor, image_mean and image_std give pixel values beyond float32"
            )
        if self.resample not in (2, 3):
            raise CheckpointError(
                f"resample {self.resample} is neither 2 (bilinear) nor 3 (bicubic)"
            )
        if self.background is not None:
            check_color(self.background)

    def with_options(self, options: ImageOptions) -> "ImageConfig":
        """These settings with a caller's on top.

        Raises:
            InputError: the values contradict each other.
        """
        values = {field.name: getattr(options, field.name) for field in fields(options)}
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **given) if given else self


def check_color(color: object) -> None:
    """Refuse what is not the name of a color.

    Raises:
        InputError: it is none.
    """
    from PIL import ImageColor  # settings without a background do not need it

    try:
        ImageColor.getrgb(cast(str, color))
    except (ValueError, TypeError):
        raise InputError(
            f"background {color!r:.40} is no color, expected a name such as black, or #rrggbb"
        ) from None


# Fields that no checkpoint sets.
OUR_OPTIONS = frozenset({"jpeg_draft", "background"})

# Keys of processor files that have no effect here.
IGNORED_PROCESSOR_KEYS = frozenset(
    {
        "do_resize",  # the reference always resizes, whatever the file says
        "max_num_patches",  # follows from max_image_tokens and tile_size; one repo's 256 is wrong
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


def read_image_config(folder: Path) -> ImageConfig:
    """Read the image settings, wherever the checkpoint keeps them.

    They are in `processor_config.json` (at the top level in LFM2-VL, under `image_processor` in
    LFM2.5-VL) or in `preprocessor_config.json` (MLX repositories); `config.json` repeats most of
    them. The first of these files that has a key wins.

    Raises:
        CheckpointError: a file is broken or asks for something that is not implemented.
    """
    model = read_json(folder / "config.json")
    outer = read_optional_json(folder / "processor_config.json")
    legacy = read_optional_json(folder / "preprocessor_config.json")
    if not outer and not legacy:
        raise CheckpointError(
            f"{folder} has no processor_config.json: image settings are missing; "
            f"{download_again(folder, 'processor_config.json')}"
        )
    nested = outer.get("image_processor") or {}
    if not isinstance(nested, dict):
        raise CheckpointError("processor_config.json: image_processor is not a JSON object")
    processor = {**legacy, **{k: v for k, v in outer.items() if k != "image_processor"}, **nested}
    known = {field.name for field in fields(ImageConfig)} - OUR_OPTIONS
    if not (known - {"use_image_special_tokens"}) & set(processor):
        raise CheckpointError(
            f"{folder} has no image settings: neither processor_config.json nor "
            "preprocessor_config.json holds any; "
            f"{download_again(folder, 'processor_config.json')}"
        )
    section = Section(processor, "processor_config.json")
    section.only("do_rescale", True)
    section.only("do_normalize", True)
    unknown = set(processor) - known - IGNORED_PROCESSOR_KEYS - {"do_rescale", "do_normalize"}
    unknown -= {"patch_size"}
    if unknown:
        logger.warning("ignoring unknown keys in the processor files: %s", some(sorted(unknown)))
    merged = Section({**_vision_geometry(model), **model, **processor}, "processor_config.json")
    values: dict[str, Any] = {}
    for field in (field for field in fields(ImageConfig) if field.name in known):
        required = field.default is MISSING
        if merged.values.get(field.name) is None and not required:
            continue
        if field.name in ("image_mean", "image_std"):
            values[field.name] = _three_numbers(merged.values[field.name], field.name)
        else:
            read = {int: merged.integer, float: merged.number, bool: merged.flag}
            values[field.name] = read[field.type](field.name)
    if processor.get("image_processor_type") == "Siglip2ImageProcessor":
        # That class only cuts patches. The resize before it was Pillow's default, bicubic.
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
    if len(values) != 3:
        raise CheckpointError(
            f"processor_config.json: {key} is {shown(value)}, expected three numbers"
        )
    for number in values:
        Section({key: number}, "processor_config.json").within(key, -MAX_NUMBER, MAX_NUMBER)
    return tuple(float(v) for v in values)


def restore_tiling(image: ImageConfig, folder: Path) -> ImageConfig:
    """Turn tiling on again where a published MLX conversion turned it off by mistake.

    Others have measured the effect: without tiles, ScreenSpot-v2 falls from 75 % to 33-44 %.
    `config.json` usually still has the official flags. LFM2-VL-450M is the only member of the
    family without a thumbnail.

    Args:
        image: settings of an MLX repository.
        folder: of that repository.

    Raises:
        CheckpointError: `config.json` cannot be read.
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
            "this MLX repository switches off tiling, a known conversion mistake; using the "
            "official do_image_splitting=true, use_thumbnail=%s",
            str(restored.use_thumbnail).lower(),
        )
    return restored


def load_image_config(folder: Path) -> ImageConfig:
    """Read the image settings of a checkpoint folder and undo known mistakes in them.

    Raises:
        CheckpointError: a file is missing or broken.
    """
    from .tensors import detect_layout  # who only knows the settings does without

    image_config = read_image_config(folder)
    layout = detect_layout(folder)
    if layout.is_mlx and not layout.is_ours:
        image_config = restore_tiling(image_config, folder)
    return image_config
