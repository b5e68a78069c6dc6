"""The tools of MCP: what an agent reads of them, and the skill that each of them asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...skills import tasks
from ...skills.prompts import find_prompt

if TYPE_CHECKING:
    from ...skills.kinds import Kind
    from .messages import Json

Arguments = Mapping[str, Any]

TYPES = {"string": str, "integer": int, "array": list, "object": dict}
TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
PAGE = {
    "type": "integer",
    "minimum": 1,
    "description": "Page of a PDF, from 1, the default.",
}
ENDED = {
    "type": "string",
    "enum": ["stop", "length"],
    "description": '"length" if the answer was too long and was cut off.',
}
BOX = {
    "type": "object",
    "properties": {
        "label": TEXT,
        "pixels": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "Left, top, right and bottom side, in pixels of the image.",
        },
    },
    "required": ["label", "pixels"],
}


@dataclass(frozen=True)
class Tool:
    """A tool, before it is known what may be looked at.

    Attributes:
        name: of the tool.
        title: for people.
        description: for agents.
        make: makes the skill for a kind of checkpoint.
        properties: schemas of the arguments besides the images.
        output: schemas of what the answer holds besides how it ended.
        takes_many: whether it looks at several images.
    """

    name: str
    title: str
    description: str
    make: Callable[[Kind, Arguments], tasks.Task[Any]]
    properties: Json
    output: Json
    takes_many: bool = False

    def listed(self, images: str) -> Json:
        """Return the tool as `tools/list` shows it.

        Args:
            images: what an agent may name as an image, in words.
        """
        output = {**self.output, "finish_reason": ENDED}
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.schema(images),
            "outputSchema": {"type": "object", "properties": output, "required": [*output]},
            "annotations": {"title": self.title, "readOnlyHint": True, "openWorldHint": False},
        }

    def schema(self, images: str = "") -> Json:
        """Return the JSON Schema of the arguments; see `listed`."""
        if self.takes_many:
            about = f"Of each: {images}. A PDF shows its first page."
            first: Json = {"images": {**TEXTS, "minItems": 2, "description": about}}
        else:
            first = {"image": {**TEXT, "description": f"{images}."}, "page": PAGE}
        return {
            "type": "object",
            "properties": {**first, **self.properties},
            "required": [next(iter(first))],
            "additionalProperties": False,
        }

    def check(self, arguments: Arguments) -> None:
        """Check the names and types of arguments.

        Raises:
            InputError: one is unknown, missing or wrong.
        """
        schema = self.schema()
        known = schema["properties"]
        for name, value in arguments.items():
            if name not in known:
                expected = ", ".join(known)
                raise InputError(f"there is no argument {name!r:.60}, expected {expected}")
            _check(name, value, known[name])
        for name in schema["required"]:
            if name not in arguments:
                raise InputError(f"the argument {name!r} is missing")


def _check(name: str, value: object, schema: Json) -> None:
    kind = TYPES[schema["type"]]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}, expected {schema['type']}")
    if "enum" in schema and value not in schema["enum"]:
        raise InputError(f"{name} is {value!r:.60}, expected {' or '.join(schema['enum'])}")
    if isinstance(value, int) and value < schema.get("minimum", value):
        raise InputError(f"{name} is {value}, expected {schema['minimum']} or more")
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            raise InputError(f"{name} has {len(value)}, expected {schema['minItems']} or more")
        for item in value:
            _check(f"a value of {name}", item, schema["items"])


def _describe(kind: Kind, arguments: Arguments) -> tasks.Task[Any]:
    question = arguments.get("question")
    if question is not None:
        # As a value of a prompt, so that braces in it stand for nothing.
        prompt = replace(find_prompt("ask", kind), user="{question}")
        return tasks.ask(kind, question=question, prompt=prompt)
    return tasks.caption(kind, length=arguments.get("length", "normal"))


def _read_text(kind: Kind, arguments: Arguments) -> tasks.Task[Any]:
    return tasks.ocr(kind, form=arguments.get("form", "text"))


def _detect(kind: Kind, arguments: Arguments) -> tasks.Task[Any]:
    return tasks.detect(kind, target=arguments.get("what"))


def _extract(kind: Kind, arguments: Arguments) -> tasks.Task[Any]:
    return tasks.extract(kind, fields=arguments.get("fields"), schema=arguments.get("schema"))


def _compare(kind: Kind, _: Arguments) -> tasks.Task[Any]:
    return tasks.compare(kind)


TOOLS = (
    Tool(
        "describe",
        "Describe an image",
        "Say what an image shows, or answer a question about it. Use it to see a photo, diagram, "
        "chart or screenshot.",
        _describe,
        {
            "question": {**TEXT, "description": "What you want to know. Without it: everything."},
            "length": {
                **TEXT,
                "enum": ["short", "normal", "detailed", "alt"],
                "description": "How long a description is without a question. alt is alt text.",
            },
        },
        {"text": TEXT},
    ),
    Tool(
        "read_text",
        "Read the text in an image",
        "Return the text that stands in an image or on a page of a PDF.",
        _read_text,
        {
            "form": {
                **TEXT,
                "enum": ["text", "markdown"],
                "description": "markdown keeps headings, lists and tables. Default: text.",
            }
        },
        {"text": TEXT},
    ),
    Tool(
        "detect",
        "Find things in an image",
        "Find things in an image and return their boxes in pixels. Use it to learn where something "
        "is, such as a button in a screenshot.",
        _detect,
        {"what": {**TEXTS, "description": 'Such as ["the save button"]. Default: everything.'}},
        {
            "boxes": {"type": "array", "items": BOX},
            "width": {"type": "integer", "description": "Of the image, in pixels."},
            "height": {"type": "integer", "description": "Of the image, in pixels."},
        },
    ),
    Tool(
        "extract",
        "Read values from an image",
        "Read the values of fields from an image, such as the total of a receipt. Give fields or "
        "a schema.",
        _extract,
        {
            "fields": {
                **TEXTS,
                "description": '"name: description" each, such as ["total: amount paid"].',
            },
            "schema": {"type": "object", "description": "JSON Schema of the object to return."},
        },
        {"values": {"type": "object", "description": "By name; null where the image has none."}},
    ),
    Tool(
        "compare",
        "Compare images",
        "Say what differs between two or more images, such as two screenshots.",
        _compare,
        {},
        {"text": TEXT},
        takes_many=True,
    ),
)
