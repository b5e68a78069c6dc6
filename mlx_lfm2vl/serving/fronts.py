"""What clients may ask of the HTTP server: protocols, skills, the page."""

from __future__ import annotations

from .app import Fronts
from .openai_chat import read_chat


def all_fronts() -> Fronts:
    """Return everything that this package speaks."""
    return Fronts({"/v1/chat/completions": read_chat})
