"""The versions of MCP: with a handshake up to 2025-11-25, and without one from 2026-07-28 on.

Where there is no handshake, every request names its version, and every result says what it is.
"""

from __future__ import annotations

from typing import Any

from ... import __version__
from .messages import INVALID_PARAMS, Json, ProtocolError

HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")  # the newest first
STATELESS = ("2026-07-28",)
UNSUPPORTED = -32022
PREFIX = "io.modelcontextprotocol/"
SERVER = {"name": "mlx_lfm2vl", "title": "LFM2-VL", "version": __version__}
CAPABILITIES = {"tools": {"listChanged": False}}
LIST_SECONDS = 3600  # for which a client may keep the list of tools


def initialized(params: Json, instructions: str) -> Json:
    """Return the result of `initialize`.

    Raises:
        ProtocolError: the client names no version.
    """
    asked = params.get("protocolVersion")
    if not isinstance(asked, str):
        raise ProtocolError(INVALID_PARAMS, "protocolVersion is missing")
    return {
        "protocolVersion": asked if asked in HANDSHAKE else HANDSHAKE[0],
        "capabilities": CAPABILITIES,
        "serverInfo": SERVER,
        "instructions": instructions,
    }


def discovered(instructions: str) -> Json:
    """Return the result of `server/discover`."""
    return {
        "supportedVersions": [*STATELESS],
        "capabilities": CAPABILITIES,
        "instructions": instructions,
    }


def is_stateless(params: Json) -> bool:
    """Whether a request belongs to a version without a handshake.

    Raises:
        ProtocolError: it does, but to an unknown one, or lacks what it must hold.
    """
    meta = meta_of(params)
    asked = meta.get(f"{PREFIX}protocolVersion")
    if asked is None:
        return False
    if not isinstance(asked, str) or f"{PREFIX}clientCapabilities" not in meta:
        text = f"_meta lacks a text {PREFIX}protocolVersion or {PREFIX}clientCapabilities"
        raise ProtocolError(INVALID_PARAMS, text)
    if asked not in STATELESS:
        versions = {"supported": [*STATELESS], "requested": asked}
        raise ProtocolError(UNSUPPORTED, "this protocol version is not supported", versions)
    return True


def stamped(method: str, result: Json) -> Json:
    """Return a result with what versions without a handshake have in it."""
    kept = {"ttlMs": LIST_SECONDS * 1000, "cacheScope": "private"}
    return {
        **result,
        **(kept if method in ("server/discover", "tools/list") else {}),
        "resultType": "complete",
        "_meta": {f"{PREFIX}serverInfo": SERVER},
    }


def meta_of(params: Json) -> dict[str, Any]:
    """Return the `_meta` of a request's parameters; empty if there is none."""
    meta = params.get("_meta")
    return meta if isinstance(meta, dict) else {}
