"""Files and weights of other tools, recognized by what they hold, to say what to do about them."""

from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError

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


def refuse_other_kinds(path: Path, beginning: bytes) -> None:
    """Refuse a file that no checkpoint holds.

    Args:
        path: of the file.
        beginning: its first `LONGEST` bytes, or more.

    Raises:
        CheckpointError: it is empty, a pointer, a web page, an archive, or of another program.
    """
    if not beginning:
        raise CheckpointError(f"{path} is empty: download it again")
    for start, what in BEGINNINGS.items():
        if beginning[:LONGEST].lstrip().lower().startswith(start):
            raise CheckpointError(f"{path} {what}")


def packed_by(names: Iterable[str]) -> str | None:
    """Return which other tool has packed the weights, by the names of the tensors."""
    names = list(names)
    for endings, tool in PACKINGS.items():
        if any(name.endswith(endings) for name in names):
            return tool
    return None
