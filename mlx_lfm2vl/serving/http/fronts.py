"""What clients may ask of the HTTP server: protocols, skills, the page.

A server listens before it has loaded what reads images, so that is imported with the first request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..exchange import Exchange, Terms
from ..page.routes import page_routes
from .app import Fronts

SKILLS = (
    "caption", "keywords", "ocr", "layout", "detect", "point", "classify", "extract", "compare",
    "ask",
)  # fmt: skip


def all_fronts() -> Fronts:
    """Return everything that this package speaks."""
    return Fronts(
        {
            "/v1/chat/completions": _read_chat,
            "/v1/responses": _read_responses,
            **{f"/v1/skills/{name}": partial(_read_skill, name) for name in SKILLS},
        },
        {"/v1/plan": _plan, "/v1/preview": _preview},
        page_routes(),
        _description,
    )


def _read_chat(body: Mapping[str, Any], terms: Terms) -> Exchange:
    from ..protocol.chat import read_chat

    return read_chat(body, terms)


def _read_responses(body: Mapping[str, Any], terms: Terms) -> Exchange:
    from ..protocol.responses import read_responses

    return read_responses(body, terms)


def _read_skill(name: str, body: Mapping[str, Any], terms: Terms) -> Exchange:
    from ..protocol.skills import read_skill

    return read_skill(name, body, terms)


def _plan(body: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    from ..page.plan import plan

    return plan(body, terms)


def _preview(body: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    from ..page.plan import preview

    return preview(body, terms)


def _description(terms: Terms, models: Sequence[str], needs_token: bool) -> dict[str, Any]:
    from .openapi import description

    return description(terms, models, SKILLS, needs_token=needs_token)
