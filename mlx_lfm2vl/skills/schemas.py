"""Schemas that keep an answer in its form, where the extra `[json]` is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ..constraints.constraint import Constraint
from ..options import AnswerOptions
from .kinds import Kind

MAX_LABEL = 80  # characters; without a bound a small model may never close a string
MAX_BOXES = 50


def box_schema(kind: Kind, *, images: int = 1, at_most: int = MAX_BOXES) -> dict[str, Any]:
    """Return the JSON Schema of an answer with boxes, in the form that a checkpoint was taught.

    Args:
        kind: of the checkpoint.
        images: number of images that are asked about together.
        at_most: number of boxes.
    """
    label = {"type": "string", "maxLength": MAX_LABEL}
    if kind == "3b":
        side: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 1000}
        number = {"type": "integer", "minimum": 0, "maximum": images - 1}
        box = {"image_id": number, "bbox_2d": _four(side), "label": label}
    else:
        side = {"type": "number", "minimum": 0, "maximum": 1}
        box = {"label": label, "bbox": _four(side)}
    item = {
        "type": "object",
        "properties": box,
        "required": list(box),
        "additionalProperties": False,
    }
    return {"type": "array", "items": item, "maxItems": at_most}


def _four(side: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": side, "minItems": 4, "maxItems": 4}


def constrained(options: AnswerOptions, make: Callable[[], Constraint]) -> AnswerOptions:
    """Return options whose answer follows a constraint, or the same without the extra `[json]`.

    Raises:
        InputError: the engine of the constraint cannot do this one.
    """
    if find_spec("llguidance") is None:
        return options
    return options.changed({"constraint": make()})
