"""Which checkpoint is meant: each kind has been taught its own forms of question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from ..checkpoint.config import ModelConfig

Kind = Literal["450m", "1.6b", "3b", "extract", "demo", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# (width, layers) of the decoder, (width, side of a patch) of the encoder.
SIZES: dict[tuple[int, int, int, int], Kind] = {
    (1024, 16, 768, 16): "450m",
    (2048, 16, 1152, 16): "1.6b",
    (2048, 30, 1152, 16): "3b",
    (192, 5, 192, 8): "demo",
}


def checkpoint_kind(config: ModelConfig) -> Kind:
    """Return the kind of a checkpoint, which its configuration tells.

    - The sizes of decoder and encoder tell the LFM2.5-VL models and the demo model. LFM2-VL, the
      generation before, has a layer norm in its connector and was taught no boxes: `other`.
    - An -Extract model has the files of its base, except for the weights. Its name tells it, also
      as `_name_or_path` in `config.json`. Where a copy has lost the name, choose the kind yourself.
    - A fine-tune has the kind of the model it began as.
    """
    text, vision = config.text, config.vision
    sizes = (text.hidden_size, len(text.layer_types), vision.hidden_size, vision.patch_size)
    kind = "other" if config.projector.use_layernorm else SIZES.get(sizes, "other")
    return "extract" if config.is_extract and kind in ("450m", "1.6b") else kind
