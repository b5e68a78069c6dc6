"""Quantization as settings: which matrices, with how many bits, and how a config says so."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import CheckpointError, InputError

MODES = {  # bits, and group sizes with the preferred one first
    "affine": ((2, 3, 4, 5, 6, 8), (128, 64, 32)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
RECIPES = {  # bits of most layers, bits of the sensitive ones
    "mixed_2_6": (2, 6),
    "mixed_3_4": (3, 4),
    "mixed_3_6": (3, 6),
    "mixed_4_6": (4, 6),
    "mixed_4_8": (4, 8),
}
# Bits and group size of files that do not say.
WRITTEN_DEFAULTS = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
PARTS = ("language", "embed", "projector", "vision")


@dataclass(frozen=True)
class Scheme:
    """How one matrix is quantized: MLX's modes, as `mx.quantize` takes them."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        bits, groups = MODES[self.mode]
        for name, value, allowed in (
            ("bits", self.bits, bits),
            ("group size", self.group_size, groups),
        ):
            if value not in allowed:
                expected = ", ".join(map(str, sorted(allowed)))
                raise InputError(f"{self.mode} has no {name} {value}, only {expected}")

    @property
    def bits_per_weight(self) -> float:
        """Scales, and biases in affine mode, included; these are 16-bit."""
        return self.bits + (32 if self.mode == "affine" else 8) / self.group_size

    def packed(self, rows: int, columns: int, dtype: str) -> dict[str, tuple[str, tuple[int, int]]]:
        """Safetensors type and shape of the arrays that hold a (rows, columns) matrix.

        Args:
            dtype: safetensors name of the type that scales and biases have in affine mode.
        """
        groups = (rows, columns // self.group_size)
        arrays = {"weight": ("U32", (rows, columns * self.bits // 32))}
        if self.mode != "affine":
            return {**arrays, "scales": ("U8", groups)}
        return {**arrays, "scales": (dtype, groups), "biases": (dtype, groups)}


@dataclass(frozen=True)
class QuantizeOptions:
    """What a user asks for; None leaves a part as it is, for `embed_bits` as the language model."""

    bits: int | None = None  # of the decoder's layers
    group_size: int | None = None  # None: the largest that a row divides by
    mode: str = "affine"
    embed_bits: int | None = None  # of the embedding, which is the output head, too
    vision_bits: int | None = None
    projector_bits: int | None = None
    recipe: str | None = None  # of RECIPES, in place of `bits`

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.recipe is not None and self.recipe not in RECIPES:
            raise InputError(f"recipe {self.recipe!r} is not one of {', '.join(RECIPES)}")
        if self.recipe is not None and (self.bits is not None or self.mode != "affine"):
            raise InputError("a recipe sets bits and mode itself: leave --bits and --mode out")
        if self.bits is not None and self.bits not in MODES[self.mode][0]:
            Scheme(self.bits, MODES[self.mode][1][0], self.mode)  # says which there are
        for bits in (self.bits, self.embed_bits, self.vision_bits, self.projector_bits):
            if bits is not None:
                self._scheme(bits)

    @property
    def quantizes(self) -> bool:
        """Whether anything is asked for."""
        wanted = (self.bits, self.embed_bits, self.vision_bits, self.projector_bits)
        return self.recipe is not None or any(bits is not None for bits in wanted)

    def scheme(self, path: str, columns: int, num_layers: int) -> Scheme | None:
        """How to quantize a matrix.

        Args:
            path: of its layer, under our names.
            columns: its inputs.
            num_layers: of the decoder.

        Returns:
            None to leave it as it is: nobody asked, or no group size divides its rows.
        """
        bits = self._bits(path, num_layers)
        if bits is None:
            return None
        scheme = self._scheme(bits)
        groups = [scheme.group_size, *(g for g in MODES[scheme.mode][1] if g < scheme.group_size)]
        fitting = next((group for group in groups if columns % group == 0), None)
        return replace(scheme, group_size=fitting) if fitting else None

    def _scheme(self, bits: int) -> Scheme:
        """Bits of other parts that the mode does not have are affine: mxfp4 with an 8-bit tower."""
        mode = self.mode if bits in MODES[self.mode][0] else "affine"
        preferred = MODES[mode][1][0]
        group = self.group_size or preferred
        return Scheme(bits, group if mode == self.mode else preferred, mode)

    def wants(self, path: str, num_layers: int) -> bool:
        """Whether a matrix is meant to be quantized, if its rows allow it."""
        return self._bits(path, num_layers) is not None

    def _bits(self, path: str, num_layers: int) -> int | None:
        part = part_of(path)
        if path.startswith("vision_tower.embeddings."):
            return None  # the patch embedding and the positions are small and see raw pixels
        if part == "vision":
            return self.vision_bits
        if part == "projector":
            return self.projector_bits
        if self.recipe is None:
            return self.embed_bits or self.bits if part == "embed" else self.bits
        low, high = RECIPES[self.recipe]
        if part == "embed":
            return self.embed_bits or high
        return high if _is_sensitive(path, num_layers) else low


def _is_sensitive(path: str, num_layers: int) -> bool:
    """Values and down projections of the first and last layers and every third between.

    The choice of llama.cpp's Q4_K_M, as mlx-lm's recipes take it over.
    """
    layer, eighth = int(path.split(".")[2]), num_layers // 8
    chosen = layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
    return chosen and path.endswith((".v_proj", ".feed_forward.w2"))


def part_of(name: str) -> str:
    """Which of PARTS a parameter of ours belongs to."""
    if name.startswith(("language_model.embed_tokens", "lm_head")):
        return "embed"
    if name.startswith("vision_tower."):
        return "vision"
    return "projector" if name.startswith("multi_modal_projector.") else "language"


def written_scheme(path: str, quantization: Mapping[str, Any]) -> Scheme:
    """What a config's `quantization` says of one layer.

    An entry keyed by a path, or by the end of one, overrides the common values. What it does not
    say has the default of `nn.quantize`, as it has for mlx-lm.

    Args:
        path: under our names.
        quantization: entries under our names, too.

    Raises:
        CheckpointError: the values make no sense.
    """
    entries = {key: entry for key, entry in quantization.items() if isinstance(entry, dict)}
    suffixes = [key for key in entries if path == key or path.endswith(f".{key}")]
    source = entries[max(suffixes, key=len)] if suffixes else quantization
    mode = source.get("mode", "affine")
    bits, group_size = WRITTEN_DEFAULTS.get(mode, (4, 64))
    try:
        return Scheme(source.get("bits", bits), source.get("group_size", group_size), mode)
    except InputError as error:
        raise CheckpointError(f"the quantization settings of {path}: {error}") from None


def quantization_config(schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """The `quantization` block of a config in mlx-lm's form.

    Args:
        schemes: of every quantized layer, keyed by the path that the config is to use.

    Returns:
        The most common scheme, and an entry for every layer with another one.
    """
    counts: dict[Scheme, int] = {}
    for scheme in schemes.values():
        counts[scheme] = counts.get(scheme, 0) + 1
    common = max(counts, key=lambda scheme: counts[scheme])
    others = {path: asdict(s) for path, s in schemes.items() if s != common}
    return {**asdict(common), **others}
