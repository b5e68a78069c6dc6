"""Names of tensors in our modules and in files, and the part of the model each belongs to."""

import logging

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

LAYOUTS = ("mlx", "hub")  # that checkpoints are written in
PARTS = ("language", "embed", "connector", "vision")

# Our names are the Hub's without the leading `model.`.
TOWER, CONNECTOR, DECODER, HEAD = (
    "vision_tower.",
    "multi_modal_projector.",
    "language_model.",
    "lm_head.",
)
TOWER_LAYERS, DECODER_LAYERS = f"{TOWER}encoder.layers.", f"{DECODER}layers."
EMBEDDING = f"{DECODER}embed_tokens"
MLX_SPELLINGS = ((HEAD, f"{DECODER}lm_head."), (DECODER, f"{DECODER}model."))  # ours, theirs
HUB_SPELLINGS = ((TOWER, f"{TOWER}vision_model."),)  # ours, those of published repositories
DEPTHWISE = "conv.conv.weight"  # ends the names of weights that are (C, 1, taps) on the Hub
BARE_DECODER = ("embed_tokens.", "layers.", "embedding_norm.")  # as mlx-lm and OptiQ write it

SHAPES_SHOWN = 5
MAX_SHOWN = 150  # characters of a name in a message


def our_name(name: str) -> str:
    """Return our name for a tensor from a file of any layout in use."""
    name = name.removeprefix("model.")
    for ours, theirs in (*MLX_SPELLINGS, *HUB_SPELLINGS):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return DECODER + name if name.startswith(BARE_DECODER) else name


def our_path(path: str) -> str:
    """Return our path of a module that a file of any layout names."""
    return our_name(f"{path}.").removesuffix(".")


def mlx_name(name: str, *, text_only: bool = False) -> str:
    """Return the name that a parameter of ours has in MLX repositories.

    Args:
        name: our name.
        text_only: give mlx-lm's name, for a checkpoint of the decoder alone, not mlx-vlm's.
    """
    for ours, theirs in MLX_SPELLINGS:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    return name.removeprefix(DECODER) if text_only else name


def hub_name(name: str) -> str:
    """Return the name that a parameter of ours has in repositories that transformers reads.

    Versions 4 and 5 of transformers and llama.cpp's converter know these names. Version 5 itself
    writes the tower's without `vision_model.`, which the others do not know.
    """
    for ours, theirs in HUB_SPELLINGS:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    return name if name.startswith(HEAD) else f"model.{name}"


def mlx_path(path: str, *, text_only: bool = False) -> str:
    """Return the path that a module of ours has in MLX repositories; see `mlx_name`."""
    return mlx_name(f"{path}.", text_only=text_only).removesuffix(".")


def part_of(name: str) -> str:
    """Return which of `PARTS` a parameter of ours belongs to."""
    if name.startswith((EMBEDDING, HEAD)):
        return "embed"
    if name.startswith(TOWER):
        return "vision"
    return "connector" if name.startswith(CONNECTOR) else "language"


PEFT_PARTS = (".lora_A.", ".lora_B.", ".base_layer.", ".lora_magnitude_vector.")
# Endings of tensors that older libraries save although they follow from the configuration.
DERIVED = ("rotary_emb.inv_freq", "embeddings.position_ids")


def check_names(
    expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], droppable: set[str]
) -> set[str]:
    """Compare a checkpoint's tensors with the model's parameters, both under our names.

    Args:
        expected: name and shape of every parameter.
        found: name and shape of every tensor, with convolution weights already in our layout.
        droppable: prefixes of tensors that checkpoints may have and the model does not use.

    Returns:
        Names of the tensors to drop.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape; the message names them.
    """
    surplus = set(found) - set(expected)
    dropped = (
        {name for name in surplus if name.startswith(tuple(droppable))} if droppable else set()
    )
    if dropped:
        logger.warning("tensors not used by this model, dropped: %s", some(sorted(dropped)))
    shapes = [
        f"{name} {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(set(expected) & set(found))
        if found[name] != expected[name]
    ]
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unknown": sorted(surplus - dropped),
        "wrong shape": shapes,
    }
    lines = [f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names]
    if any(part in name for name in surplus for part in PEFT_PARTS):
        lines.append("they hold layers of PEFT: merge_and_unload() the adapter before saving")
    if lines:
        raise CheckpointError("the weights do not fit the configuration; " + "; ".join(lines))
    return dropped


def some(names: list[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    more = f" and {len(names) - SHAPES_SHOWN} more" if len(names) > SHAPES_SHOWN else ""
    short = [name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}..." for name in names]
    text = ", ".join(short[:SHAPES_SHOWN])
    return (text if text.isprintable() else ascii(text)) + more
