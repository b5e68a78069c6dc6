"""How a quantized matrix is packed, and how a config says so."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import CheckpointError, InputError

MODES = {  # bits, and group sizes with the preferred one first
    "affine": ((2, 3, 4, 5, 6, 8), (128, 64, 32)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
# Bits and group size where a file does not give them.
WRITTEN_DEFAULTS = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}


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


def written_scheme(path: str, quantization: Mapping[str, Any]) -> Scheme:
    """How a config's `quantization` says one layer is packed.

    An entry keyed by the layer's path, or by the end of it, replaces the common values; the longest
    key wins. Missing values have the defaults of `nn.quantize`, as in mlx-lm.

    Args:
        path: under our names.
        quantization: its keys are also under our names.

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
        schemes: of every quantized layer, keyed by its path in the config.

    Returns:
        The most common scheme, and an entry for every layer that has another.
    """
    counts: dict[Scheme, int] = {}
    for scheme in schemes.values():
        counts[scheme] = counts.get(scheme, 0) + 1
    common = max(counts, key=lambda scheme: counts[scheme])
    others = {path: asdict(s) for path, s in schemes.items() if s != common}
    return {**asdict(common), **others}
