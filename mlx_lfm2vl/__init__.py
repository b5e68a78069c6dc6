"""LFM2-VL vision-language models on Apple silicon, in MLX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import CheckpointError, InputError, Lfm2VLError, NetworkError
    from .generation.answer import Piece, Result
    from .generation.batch import batch_generate, stream_batch
    from .generation.stream import generate, stream_generate
    from .images.source import ImageLimits
    from .loading import load
    from .options import ImageOptions, Sampling

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ImageLimits",
    "ImageOptions",
    "InputError",
    "Lfm2VLError",
    "NetworkError",
    "Piece",
    "Result",
    "Sampling",
    "batch_generate",
    "generate",
    "load",
    "stream_batch",
    "stream_generate",
]

_HOMES = {
    "CheckpointError": "errors",
    "ImageLimits": "images.source",
    "ImageOptions": "options",
    "InputError": "errors",
    "Lfm2VLError": "errors",
    "NetworkError": "errors",
    "Piece": "generation.answer",
    "Result": "generation.answer",
    "Sampling": "options",
    "batch_generate": "generation.batch",
    "generate": "generation.stream",
    "load": "loading",
    "stream_batch": "generation.batch",
    "stream_generate": "generation.stream",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `--help` and `--plan` never load MLX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
