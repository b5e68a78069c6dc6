"""The JSON schema of a Python type: a dataclass, or a pydantic model."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import InputError

_PLAIN: dict[Any, dict[str, Any]] = {
    Any: {},
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    date: {"type": "string", "format": "date"},
    datetime: {"type": "string", "format": "date-time"},
    list: {"type": "array"},
    dict: {"type": "object"},
}


def schema_of(described: Any) -> Any:
    """Return the JSON schema of a dataclass or a pydantic model, and anything else as it is.

    A field with a default may be missing from the object.

    Raises:
        InputError: a field has a type that has no schema here.
    """
    if isinstance(described, type) and hasattr(described, "model_json_schema"):
        return described.model_json_schema()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(described, type) and is_dataclass(described):
        return _Types().whole(described)
    return described


class _Types:
    """Schemas of types, with each dataclass once, under `$defs`."""

    def __init__(self) -> None:
        self._names: dict[type, str] = {}
        self._defs: dict[str, dict[str, Any]] = {}

    def whole(self, kind: type) -> dict[str, Any]:
        """Return the schema of a dataclass."""
        return {**self._of(kind, kind.__name__), "$defs": self._defs}

    def _of(self, kind: Any, where: str) -> dict[str, Any]:
        try:
            if kind in _PLAIN:
                return _PLAIN[kind]
        except TypeError:  # what cannot be hashed is no plain type
            pass
        if isinstance(kind, type) and is_dataclass(kind):
            return {"$ref": f"#/$defs/{self._define(kind)}"}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        origin, inner = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._of(inner[0], where)
        if origin is Literal:
            return {"enum": list(inner)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self._of(each, where) for each in inner]}
        if origin is tuple and inner[-1:] != (Ellipsis,):
            parts = [self._of(each, where) for each in inner]
            size = {"minItems": len(parts), "maxItems": len(parts)}
            return {"type": "array", "prefixItems": parts, **size}
        if origin in (list, tuple, Sequence):
            return {"type": "array", "items": self._of(inner[0], where)}
        if origin in (dict, Mapping) and inner[0] is str:
            return {"type": "object", "additionalProperties": self._of(inner[1], where)}
        raise InputError(f"{where} is {kind!r:.60}, which has no JSON schema here")

    def _define(self, kind: type) -> str:
        if kind in self._names:
            return self._names[kind]
        taken = sum(name.__name__ == kind.__name__ for name in self._names)
        name = self._names[kind] = kind.__name__ + (str(taken + 1) if taken else "")
        hints = get_type_hints(kind, include_extras=True)
        needed = [
            field.name
            for field in fields(kind)
            if field.default is MISSING and field.default_factory is MISSING
        ]
        self._defs[name] = {
            "type": "object",
            "properties": {
                field.name: self._of(hints[field.name], f"{kind.__name__}.{field.name}")
                for field in fields(kind)
            },
            "required": needed,
            "additionalProperties": False,
        }
        return name
