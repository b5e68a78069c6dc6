"""Parts of JSON Schemas: an object with fields that say nothing, a text, a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]
EMPTY: Sequence[Any] = (None, "", [], {})
ANYTHING: Schema = {}


def nullable(schema: Schema) -> Schema:
    """Return a schema that allows null too."""
    if isinstance(kind := schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def record(
    properties: Mapping[str, Schema], required: Sequence[str] = (), *, beside: Iterable[str] = ()
) -> Schema:
    """Return the schema of an object whose other fields say nothing.

    Args:
        properties: that are read. Those that are not required may be null.
        required: names of properties.
        beside: names of fields that may hold anything.
    """
    known = {
        name: schema if name in required else nullable(schema)
        for name, schema in properties.items()
    }
    return {
        "type": "object",
        "properties": {**known, **dict.fromkeys(beside, ANYTHING)},
        "required": list(required),
        "additionalProperties": {"enum": list(EMPTY)},
    }


def text(most: int | None = None) -> Schema:
    """Return the schema of a text of at most so many characters."""
    return {"type": "string"} | ({} if most is None else {"maxLength": most})


def whole(least: int, most: int) -> Schema:
    """Return the schema of a whole number."""
    return {"type": "integer", "minimum": least, "maximum": most}


def number(least: float, most: float, **bounds: float) -> Schema:
    """Return the schema of a number; `bounds` are further keywords."""
    return {"type": "number", "minimum": least, "maximum": most} | bounds


def texts(most: int, longest: int) -> Schema:
    """Return the schema of one text, or several."""
    one = {"type": "string", "maxLength": longest}
    return {"anyOf": [one, {"type": "array", "items": one, "maxItems": most}]}


def word(*words: str) -> Schema:
    """Return the schema of one of some words."""
    return {"type": "string", "enum": list(words)}


FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
