"""Limits for what a JSON schema leaves open, so that a small model cannot write without end.

Every answer under the limits is valid under the schema itself.
"""

from collections.abc import Iterator
from typing import Any

MAX_STRING = 1000  # characters of a string whose length the schema leaves open
MAX_INTEGER = 2**53 - 1  # of an integer without limits; every JSON reader holds these exactly

_LISTS = ("prefixItems", "items", "anyOf", "allOf", "oneOf")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_SINGLE = ("items", "additionalProperties", "contains", "not", "if", "then", "else")
_RANGE = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_FIXED = ("enum", "const")
# An object that one of these describes too is a mixture, of which no part knows all properties.
_MIXING = ("$ref", "$dynamicRef", "anyOf", "allOf", "oneOf", "not", "if", "dependentSchemas")
_OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames")


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with limits where it has none.

    - A string has at most `MAX_STRING` characters.
    - An integer lies between -`MAX_INTEGER` and `MAX_INTEGER`.
    - An object that lists its properties has no others, unless the schema speaks of others or puts
      objects together from several schemas.
    """
    nodes = list(_nodes(schema))
    longest = max([MAX_STRING, *(_number(node.get("minLength")) for node in nodes)])
    closes = not any(_mixes(node) for node in nodes)
    return _bounded(schema, longest, closes)


def _mixes(node: dict[str, Any]) -> bool:
    others = {"allOf", "oneOf", "not", "if", "dependentSchemas", "$dynamicRef"} & node.keys()
    described = "properties" in node or "required" in node
    return bool(others) or (described and any(key in node for key in _MIXING))


def _bounded(node: Any, longest: int, closes: bool) -> Any:
    if not isinstance(node, dict):
        return node
    found = dict(node)
    for key, value in node.items():
        if key in _MAPS and isinstance(value, dict):
            found[key] = {n: _bounded(inner, longest, closes) for n, inner in value.items()}
        elif key in _LISTS and isinstance(value, list):
            found[key] = [_bounded(inner, longest, closes) for inner in value]
        elif key in _SINGLE:
            found[key] = _bounded(value, longest, closes)
    if any(key in node for key in _FIXED):
        return found
    kinds = node.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds and "format" not in node:
        found.setdefault("maxLength", longest)
    if "integer" in kinds and "number" not in kinds and not any(key in node for key in _RANGE):
        found |= {"minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
    if closes and _lists_all(node):
        found["additionalProperties"] = False
    return found


def _lists_all(node: dict[str, Any]) -> bool:
    """Whether an object can do without properties that the schema does not list."""
    listed, required = node.get("properties"), node.get("required", [])
    if not isinstance(listed, dict) or any(key in node for key in _OPEN):
        return False
    enough = _number(node.get("minProperties")) <= len(listed)
    return enough and isinstance(required, list) and set(map(str, required)) <= listed.keys()


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield a schema and all schemas in it."""
    if not isinstance(node, dict):
        return
    yield node
    for key, value in node.items():
        inner: list[Any] = []
        if key in _MAPS and isinstance(value, dict):
            inner = list(value.values())
        elif key in _LISTS and isinstance(value, list):
            inner = value
        elif key in _SINGLE:
            inner = [value]
        for schema in inner:
            yield from _nodes(schema)


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**31 else 0
