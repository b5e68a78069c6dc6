"""What to quantize: which matrices, to how many bits, in groups of what size."""

from dataclasses import dataclass, replace
from typing import Literal

from ..checkpoint.names import TOWER, part_of
from ..checkpoint.packing import MODES, Mode, Scheme
from ..errors import InputError

Recipe = Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6", "mixed_4_8"]
RECIPES: dict[str, tuple[int, int]] = {  # (bits of most layers, bits of the sensitive ones)
    "mixed_2_6": (2, 6),
    "mixed_3_4": (3, 4),
    "mixed_3_6": (3, 6),
    "mixed_4_6": (4, 6),
    "mixed_4_8": (4, 8),
}


@dataclass(frozen=True)
class QuantizeOptions:
    """What the user asks for. None leaves a part unchanged, but `embed_bits` defaults to `bits`."""

    bits: int | None = None  # of the decoder's layers
    group_size: int | None = None  # None: the largest that divides a row
    mode: Mode = "affine"
    embed_bits: int | None = None  # of the embedding, which is also the output head
    vision_bits: int | None = None
    connector_bits: int | None = None
    recipe: Recipe | None = None  # one of RECIPES, instead of `bits`

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.recipe is not None and self.recipe not in RECIPES:
            raise InputError(f"recipe {self.recipe!r} is not one of {', '.join(RECIPES)}")
        if self.recipe is not None and (self.bits is not None or self.mode != "affine"):
            raise InputError("a recipe sets bits and mode itself: remove --bits and --mode")
        if self.bits is not None and self.bits not in MODES[self.mode][0]:
            Scheme(self.bits, MODES[self.mode][1][0], self.mode)  # raises, listing the valid bits
        for bits in (self.bits, self.embed_bits, self.vision_bits, self.connector_bits):
            if bits is not None:
                self._scheme(bits)

    @property
    def quantizes(self) -> bool:
        """Whether any part is to be quantized."""
        wanted = (self.bits, self.embed_bits, self.vision_bits, self.connector_bits)
        return self.recipe is not None or any(bits is not None for bits in wanted)

    def scheme(self, path: str, columns: int, num_layers: int) -> Scheme | None:
        """How to quantize a matrix.

        Args:
            path: its layer, under our names.
            columns: number of inputs.
            num_layers: number of decoder layers.

        Returns:
            None to leave it unchanged: nobody asked for it, or no group size divides `columns`.
        """
        bits = self._bits(path, num_layers)
        if bits is None:
            return None
        scheme = self._scheme(bits)
        groups = [scheme.group_size, *(g for g in MODES[scheme.mode][1] if g < scheme.group_size)]
        fitting = next((group for group in groups if columns % group == 0), None)
        return replace(scheme, group_size=fitting) if fitting else None

    def _scheme(self, bits: int) -> Scheme:
        """A scheme of the mode, or affine if the mode lacks the bits: mxfp4 with 8-bit tower."""
        mode = self.mode if bits in MODES[self.mode][0] else "affine"
        preferred = MODES[mode][1][0]
        group = self.group_size or preferred
        return Scheme(bits, group if mode == self.mode else preferred, mode)

    def wants(self, path: str, num_layers: int) -> bool:
        """Whether a matrix is to be quantized, provided that a group size divides its rows."""
        return self._bits(path, num_layers) is not None

    def _bits(self, path: str, num_layers: int) -> int | None:
        part = part_of(path)
        if path.startswith(f"{TOWER}embeddings."):
            return None  # patch and position embeddings are small, and the first sees raw pixels
        if part == "vision":
            return self.vision_bits
        if part == "connector":
            return self.connector_bits
        if self.recipe is None:
            return self.embed_bits or self.bits if part == "embed" else self.bits
        low, high = RECIPES[self.recipe]
        if part == "embed":
            return self.embed_bits or high
        return high if _is_sensitive(path, num_layers) else low


def _is_sensitive(path: str, num_layers: int) -> bool:
    """Whether a layer is a value or down projection of a decoder layer that gets more bits.

    Those are the first and last eighth of the decoder layers and every third one in between, as
    in llama.cpp's Q4_K_M and mlx-lm's recipes.
    """
    layer, eighth = int(path.split(".")[2]), num_layers // 8
    chosen = layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2
    return chosen and path.endswith((".v_proj", ".feed_forward.w2"))
