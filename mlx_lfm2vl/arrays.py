"""Nested parameters as a flat dictionary."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten


def named_arrays(tree: Any) -> dict[str, mx.array]:
    """`{"layers": [{"weight": w}]}` -> `{"layers.0.weight": w}`."""
    return {name: value for name, value in tree_flatten(tree) if isinstance(value, mx.array)}
