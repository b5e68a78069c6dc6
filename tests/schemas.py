"""JSON schemas drawn at random, of all the kinds that constraints can follow."""

import random
import string
from typing import Any

FORMATS = ["date", "date-time", "time", "email", "uuid", "ipv4", "hostname"]
PATTERNS = ["^[A-Z]{2}-[0-9]{3}$", "^[a-z]+$", "^(yes|no|perhaps)$", r"^\d{1,3}(\.\d{2})?$", "a+b"]
DEPTH = 3


def drawn_schema(seed: int) -> dict[str, Any]:
    """Draw a schema; the same seed draws the same one."""
    return _any(random.Random(seed), DEPTH)


def _any(draw: random.Random, depth: int) -> dict[str, Any]:
    makers = [_string, _string, _number, _integer, _boolean, _enum, _const]
    if depth:
        makers += [_object, _object, _object, _object, _array, _array, _union]
    return draw.choice(makers)(draw, depth - 1)


def _string(draw: random.Random, _depth: int) -> dict[str, Any]:
    kind = draw.random()
    if kind < 0.15:
        return {"type": "string", "format": draw.choice(FORMATS)}
    if kind < 0.35:
        return {"type": "string", "pattern": draw.choice(PATTERNS)}
    schema: dict[str, Any] = {"type": "string"}
    if kind < 0.55:
        schema["minLength"] = draw.randint(0, 6)
    if kind < 0.75:
        schema["maxLength"] = draw.randint(6, 40)
    return schema


def _number(draw: random.Random, _depth: int) -> dict[str, Any]:
    low = draw.randint(-50, 50)
    return draw.choice([{}, {"minimum": low}, {"minimum": low, "maximum": low + 7.5}]) | {
        "type": "number"
    }


def _integer(draw: random.Random, _depth: int) -> dict[str, Any]:
    low = draw.randint(-5000, 5000)
    limits = draw.choice([{}, {"exclusiveMinimum": low}, {"minimum": low, "maximum": low + 3}])
    return {"type": "integer", **limits}


def _boolean(draw: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": draw.choice(["boolean", "null", ["boolean", "null"]])}


def _enum(draw: random.Random, _depth: int) -> dict[str, Any]:
    values = [_name(draw), draw.randint(0, 999), None, True, [1, "a"], 'a "b"\\', "été\n"]
    return {"enum": draw.sample(values, draw.randint(1, 4))}


def _const(draw: random.Random, _depth: int) -> dict[str, Any]:
    return {"const": draw.choice(["x", 1.5, {"a": [None]}, ""])}


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = list({_name(draw) for _ in range(draw.randint(0, 4))})
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _any(draw, depth) for name in names},
        "required": draw.sample(names, draw.randint(0, len(names))),
    }
    if draw.random() < 0.4:
        schema["additionalProperties"] = draw.choice([False, {"type": "boolean"}])
    return schema


def _array(draw: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": _any(draw, depth)}
    if draw.random() < 0.5:
        schema["minItems"] = draw.randint(0, 3)
        schema["maxItems"] = schema["minItems"] + draw.randint(0, 3)
    return schema


def _union(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_any(draw, depth) for _ in range(draw.randint(2, 3))]}


def _name(draw: random.Random) -> str:
    return "".join(draw.choices(string.ascii_lowercase + " _é", k=draw.randint(1, 8)))
