"""The server's own description, in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.routing import Route


def description(_routes: Sequence[Route]) -> dict[str, Any]:
    return {}
