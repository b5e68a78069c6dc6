"""Gradient checkpointing: less memory in training for a second forward pass of each layer."""

from collections.abc import Callable
from typing import cast

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.utils import checkpoint  # pyright: ignore[reportUnknownVariableType]


def recomputed(layer: nn.Module) -> Callable[..., mx.array]:
    """Return a layer that keeps only its inputs and recomputes the rest for its gradients."""
    return cast(Callable[..., mx.array], checkpoint(layer))
