"""Arrays by name: nested parameters as a flat dictionary, number types as words."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .errors import InputError
from .options import DTYPES


def named_arrays(tree: Any) -> dict[str, mx.array]:
    """`{"layers": [{"weight": w}]}` -> `{"layers.0.weight": w}`."""
    return {name: value for name, value in tree_flatten(tree) if isinstance(value, mx.array)}


def mlx_dtype(name: str) -> mx.Dtype:
    """`"float16"` -> `mx.float16`.

    Raises:
        InputError: it is not one of `options.DTYPES`.
    """
    if name not in DTYPES:
        raise InputError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return getattr(mx, name)


def dtype_name(dtype: mx.Dtype) -> str:
    """`mx.float16` -> `"float16"`."""
    return str(dtype).removeprefix("mlx.core.")
