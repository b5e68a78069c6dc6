"""Fields to extract from an image: as lines of text, from a JSON Schema, and their values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..errors import AnswerError, InputError
from .plain_text import read_object

MAX_FIELDS = 100
SCALARS = ["string", "number", "boolean", "null"]
TYPES = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}


@dataclass(frozen=True)
class Fields:
    """What to extract.

    Attributes:
        lines: "name: description" of each field, or only its name.
        schema: JSON Schema of the object.
        is_given: whether the caller gave the schema, which then decides what may be missing.
    """

    lines: tuple[str, ...]
    schema: dict[str, Any]
    is_given: bool = False

    @property
    def names(self) -> list[str]:
        return [line.partition(":")[0].strip() for line in self.lines]

    def read(self, text: str) -> dict[str, Any]:
        """Read the values of the fields from an answer.

        Names may differ in case and in spaces, hyphens and underscores. A field without a value is
        None. Of a schema of the caller's own the object comes as the model wrote it.

        Raises:
            AnswerError: the answer is no JSON object, has none of the fields, or lacks one that the
                schema requires.
        """
        values = read_object(text)
        if self.is_given:
            missing = [name for name in self.schema.get("required", ()) if name not in values]
            if missing:
                raise AnswerError(
                    f"the answer lacks {', '.join(missing)}, which the schema requires"
                )
            return values
        found = {_plain(name): value for name, value in reversed(values.items())}
        read = {name: values.get(name, found.get(_plain(name))) for name in self.names}
        if not any(name in values or _plain(name) in found for name in self.names):
            raise AnswerError(
                f"the answer has {_listed(values)}, expected the fields {_listed(self.names)}"
            )
        return read


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    text = ", ".join(names) or "no fields"
    return text if len(text) <= 200 else f"{text[:200]}..."


def make_fields(fields: Sequence[str] | Mapping[str, str]) -> Fields:
    """Check fields that were given as text.

    Args:
        fields: "name: description" or "name" each, or a mapping of names to descriptions. A
            description may end with choices: "select from smooth, rough, or grainy".

    Raises:
        InputError: there are none, too many, or one is empty or there twice.
    """
    if isinstance(fields, Mapping):
        fields = [f"{name}: {text}" if text else name for name, text in fields.items()]
    lines = tuple(" ".join(line.split()) for line in fields)
    properties: dict[str, Any] = {}
    for line in lines:
        name, _, description = (part.strip() for part in line.partition(":"))
        if not name:
            raise InputError(f'the field {line!r:.60} has no name, expected "name: description"')
        if name in properties:
            raise InputError(f"the field {name!r:.60} is there twice")
        choices = _choices(description)
        properties[name] = {"enum": choices} if choices else {"type": SCALARS}
    if not 0 < len(lines) <= MAX_FIELDS:
        raise InputError(f"there are {len(lines)} fields, expected 1 to {MAX_FIELDS}")
    return Fields(lines, object_schema(properties))


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of an object with all of these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _choices(description: str) -> list[str]:
    """Return the choices that a description names after "select from", as -Extract knows them."""
    found = re.search(r"\b(?:select|choose) from:? (.+?)[.)]*$", description, re.IGNORECASE)
    if not found:
        return []
    parts = re.split(r",\s*(?:or|and)\s+|,|\s+or\s+", found[1])
    choices = [part.strip(" '\"") for part in parts if part.strip(" '\"")]
    return choices if len(choices) > 1 else []


def fields_of_schema(schema: object) -> Fields:
    """Make fields of the JSON Schema of an object.

    Raises:
        InputError: it is not the schema of an object with properties.
    """
    properties: Any = (
        cast(dict[str, Any], schema).get("properties") if isinstance(schema, dict) else None
    )
    if not isinstance(properties, dict) or not properties:
        raise InputError('the schema has no "properties", expected the schema of an object')
    given = cast(dict[str, Any], properties)
    for name, value in given.items():
        if not isinstance(value, dict):
            raise InputError(f"the schema's property {name!r:.60} is no object")
        choices: Any = cast(dict[str, Any], value).get("enum", [None])
        if not isinstance(choices, list) or not choices:
            raise InputError(
                f"the schema's property {name!r:.60} has the choices {choices!r:.60}, expected a "
                "list of some"
            )
    lines = tuple(_line(name, value) for name, value in given.items())
    return Fields(lines, cast(dict[str, Any], schema), is_given=True)


def _line(name: str, schema: dict[str, Any]) -> str:
    """Return the line of a property: its description, its type if that is no text, its choices."""
    parts = [str(schema.get("description") or schema.get("title") or "").strip(" .")]
    kind = schema.get("type")
    if "enum" in schema:
        *first, last = (str(choice) for choice in schema["enum"])
        parts.append(f"select from {', '.join(first)}, or {last}" if first else f"always {last}")
    elif isinstance(kind, str) and kind in TYPES:
        inner: Any = schema if kind == "object" else schema.get("items", {})
        found: Any = inner.get("properties") if isinstance(inner, dict) else None
        names = found if isinstance(found, dict) else {}  # the constraint refuses anything else
        inside = f" with {', '.join(map(str, names))}" if names else ""
        objects = " of objects" if names and kind == "array" else ""
        parts.append(TYPES[kind] + objects + inside)
    text = ", ".join(part for part in parts if part)
    return f"{name}: {text}" if text else name
