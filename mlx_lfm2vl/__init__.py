"""LFM2-VL vision-language models on Apple silicon, in MLX."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

# Type checkers know this name. Importing `typing` for it would delay the handling of Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .constraints.constraint import Constraint, choice, grammar, json_schema, regex
    from .drafter_loading import load_drafter
    from .errors import AnswerError, CheckpointError, InputError, Lfm2VLError, NetworkError
    from .generation.engine import Engine
    from .generation.once import batch_generate, generate, stream_batch, stream_generate
    from .generation.result import Piece, Result
    from .images.pages import open_pages
    from .images.source import ImageLimits
    from .loading import load
    from .options import AnswerOptions, ImageOptions, Sampling
    from .prompt.messages import user_message

__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "AnswerOptions",
    "CheckpointError",
    "Constraint",
    "Engine",
    "ImageLimits",
    "ImageOptions",
    "InputError",
    "Lfm2VLError",
    "NetworkError",
    "Piece",
    "Result",
    "Sampling",
    "batch_generate",
    "choice",
    "generate",
    "grammar",
    "json_schema",
    "load",
    "load_drafter",
    "open_pages",
    "regex",
    "stream_batch",
    "stream_generate",
    "user_message",
]

_HOMES = {
    "AnswerError": "errors",
    "AnswerOptions": "options",
    "CheckpointError": "errors",
    "Constraint": "constraints.constraint",
    "Engine": "generation.engine",
    "ImageLimits": "images.source",
    "ImageOptions": "options",
    "InputError": "errors",
    "Lfm2VLError": "errors",
    "NetworkError": "errors",
    "Piece": "generation.result",
    "Result": "generation.result",
    "Sampling": "options",
    "batch_generate": "generation.once",
    "choice": "constraints.constraint",
    "generate": "generation.once",
    "grammar": "constraints.constraint",
    "json_schema": "constraints.constraint",
    "load": "loading",
    "load_drafter": "drafter_loading",
    "open_pages": "images.pages",
    "regex": "constraints.constraint",
    "stream_batch": "generation.once",
    "stream_generate": "generation.once",
    "user_message": "prompt.messages",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `--help` and `--plan` never load MLX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """This package, with public names that no module of the same name can replace.

    Otherwise importing the command `mlx_lfm2vl.generate` would replace the function `generate`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
