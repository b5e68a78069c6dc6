"""Opening the tensors of a safetensors file as arrays that are read when they are needed."""

from pathlib import Path

import mlx.core as mx

from ..errors import CheckpointError
from .tensors import read_header


def open_tensors(path: Path) -> dict[str, mx.array]:
    """Open a safetensors file without reading its tensors from disk.

    Raises:
        CheckpointError: the file cannot be read.
    """
    read_header(path)  # its errors on damaged files are clearer than MLX's
    try:
        tensors = mx.load(str(path))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    assert isinstance(tensors, dict)
    return tensors


def our_layout(name: str, value: mx.array) -> mx.array:
    """Return a tensor as MLX lays it out, whichever layout the file has.

    Args:
        name: our name of the tensor.
        value: from a file.
    """
    # The Hub stores depthwise weights as (C, 1, taps), MLX as (C, taps, 1).
    if name.endswith("conv.conv.weight") and value.ndim == 3 and value.shape[1] == 1:
        return value.transpose(0, 2, 1)
    return value
