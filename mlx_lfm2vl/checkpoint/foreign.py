"""Files and weights of other tools, recognized by what they hold, to say what to do about them."""

from collections.abc import Iterable

BEGINNINGS = {
    b"version https://git-lfs.github.com/spec/": (
        "is a Git LFS pointer, not the file itself: run git lfs pull in its folder"
    ),
    b"<!doctype html": "is a web page, not the file itself: download it again",
    b"<html": "is a web page, not the file itself: download it again",
    b"pk\3\4": "is a zip archive: unpack it, or download the model's safetensors files",
    b"gguf": "is a GGUF file, for llama.cpp: use the model's safetensors files",
}
LONGEST = max(map(len, BEGINNINGS))

# Endings of tensors' names, and the tools that write them.
PACKINGS = {
    (".qweight", ".qzeros", ".g_idx"): "GPTQ or AWQ",
    (".weight_packed", ".weight_shape"): "compressed-tensors",
    (".absmax", ".quant_map", ".bitsandbytes__nf4", ".bitsandbytes__fp4", ".SCB"): "bitsandbytes",
    (".weight_scale", ".weight_scale_inv", ".weight_scale_2"): "an FP8 or FP4 tool",
    (".W_q",): "HQQ",
}


def other_kind(beginning: bytes) -> str | None:
    """Return what a file is that is neither a checkpoint's nor data, and what to do about it.

    Args:
        beginning: its first `LONGEST` bytes, or more.

    Returns:
        The end of a message; None for all other files.
    """
    if not beginning:
        return "is empty: download it again"
    start = beginning[:LONGEST].lstrip().lower()
    return next((what for known, what in BEGINNINGS.items() if start.startswith(known)), None)


def packed_by(names: Iterable[str]) -> str | None:
    """Return which other tool has packed the weights, by the names of the tensors."""
    names = list(names)
    for endings, tool in PACKINGS.items():
        if any(name.endswith(endings) for name in names):
            return tool
    return None
