"""Names for arrays: nested parameters as a flat dictionary, dtypes as strings."""

import errno
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .errors import InputError
from .options import DTYPES


def named_arrays(tree: Any) -> dict[str, mx.array]:
    """Flatten nested parameters: `{"layers": [{"weight": w}]}` -> `{"layers.0.weight": w}`."""
    return {name: value for name, value in tree_flatten(tree) if isinstance(value, mx.array)}


def mlx_dtype(name: str) -> mx.Dtype:
    """Return the dtype of a name: `"float16"` -> `mx.float16`.

    Raises:
        InputError: the name is not one of `options.DTYPES`.
    """
    if name not in DTYPES:
        raise InputError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return getattr(mx, name)


def dtype_name(dtype: mx.Dtype) -> str:
    """Return the name of a dtype: `mx.float16` -> `"float16"`."""
    return str(dtype).removeprefix("mlx.core.")


def save_arrays(path: Path, arrays: dict[str, mx.array], metadata: dict[str, str]) -> None:
    """Write a safetensors file, under exactly this name.

    Raises:
        OSError: the file cannot be written.
    """
    # MLX would append its own suffix to a path, and not say why it cannot write there.
    with path.open("wb") as file:
        try:
            mx.save_safetensors(file, arrays, metadata)
        except RuntimeError as error:
            if "Unable to write" not in str(error):
                raise
            raise OSError(errno.ENOSPC, str(error)) from None
