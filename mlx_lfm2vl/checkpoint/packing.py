"""Packing of quantized matrices, and its description in a config."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import CheckpointError, InputError
from .json_file import shown

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
MODES: dict[
    str, tuple[tuple[int, ...], tuple[int, ...]]
] = {  # bits and group sizes of each mode, the preferred group size first
    "affine": ((2, 3, 4, 5, 6, 8), (128, 64, 32)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
# Bits and group size that a config may leave out.
WRITTEN_DEFAULTS = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}


@dataclass(frozen=True)
class Scheme:
    """Quantization of one matrix, as `mx.quantize` takes it.

    Raises:
        InputError: MLX has no such mode, or the mode has no such bits or group size.
    """

    bits: int
    group_size: int
    mode: str = "affine"

    def __post_init__(self) -> None:
        if not isinstance(self.mode, str) or self.mode not in MODES:
            raise InputError(f"mode {shown(self.mode)} is not one of {', '.join(MODES)}")
        bits, groups = MODES[self.mode]
        for name, value, allowed in (
            ("bits", self.bits, bits),
            ("group size", self.group_size, groups),
        ):
            if type(value) is not int or value not in allowed:  # 4.0 and True are not
                expected = ", ".join(map(str, sorted(allowed)))
                raise InputError(f"{self.mode} has no {name} {shown(value)}, only {expected}")

    def packed(self, rows: int, columns: int, dtype: str) -> dict[str, tuple[str, tuple[int, int]]]:
        """Return the arrays that hold a matrix after quantization.

        Args:
            rows: of the matrix.
            columns: of the matrix; a multiple of the group size.
            dtype: safetensors name of the dtype of scales and biases in affine mode, such as
                "BF16".

        Returns:
            By name, "weight", "scales" and in affine mode "biases", the safetensors dtype and the
            shape.
        """
        groups = (rows, columns // self.group_size)
        arrays = {"weight": ("U32", (rows, columns * self.bits // 32))}
        if self.mode != "affine":
            return {**arrays, "scales": ("U8", groups)}
        return {**arrays, "scales": (dtype, groups), "biases": (dtype, groups)}


def written_scheme(path: str, quantization: Mapping[str, Any]) -> Scheme:
    """Return the scheme that a config's `quantization` gives for one layer.

    An entry keyed by the layer's path or by the end of that path replaces the common values. If
    several match, the longest key wins. Missing values default to those of `nn.quantize`, as in
    mlx-lm.

    Args:
        path: of the layer, under our names.
        quantization: from the config, with its keys translated to our names.

    Raises:
        CheckpointError: MLX has no such scheme.
    """
    entries = {key: entry for key, entry in quantization.items() if isinstance(entry, dict)}
    suffixes = [key for key in entries if path == key or path.endswith(f".{key}")]
    source = entries[max(suffixes, key=len)] if suffixes else quantization
    mode = source.get("mode", "affine")
    bits, group_size = WRITTEN_DEFAULTS.get(str(mode), (4, 64))
    try:
        return Scheme(source.get("bits", bits), source.get("group_size", group_size), mode)
    except InputError as error:
        raise CheckpointError(f"config.json: quantization of {path}: {error}") from None


def quantization_config(schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """Return the `quantization` object of a config, in mlx-lm's form.

    Args:
        schemes: of every quantized layer, at least one, keyed by the layer's path in the config.

    Returns:
        The most common scheme, plus one entry for each layer with a different one.
    """
    counts: dict[Scheme, int] = {}
    for scheme in schemes.values():
        counts[scheme] = counts.get(scheme, 0) + 1
    common = max(counts, key=lambda scheme: counts[scheme])
    others = {path: asdict(s) for path, s in schemes.items() if s != common}
    return {**asdict(common), **others}
