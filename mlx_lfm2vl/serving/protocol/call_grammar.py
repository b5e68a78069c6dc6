"""The grammar of answers that call functions, in the syntax that LFM2 was taught.

The calls stand between two special tokens, as in `[weather(city="Paris", days=3)]`, and the values
are JSON. A function whose arguments Python cannot name is called by a JSON object instead, as in
`[{"name": "weather", "arguments": {"place name": "Paris"}}]`; `parse_calls` reads both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...constraints.bounds import bounded
from ...constraints.constraint import STYLE
from ...prompt.tokenizer import DEFAULT_TOKENS

MAX_CALLS = 16  # in one answer; a small model may not find an end
ANY_TEXT = "/(?s:.*)/"
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What the schema of arguments may say for them to be written one by one.
PLAIN = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "title",
    "description",
    "$schema",
}


def call_grammar(
    functions: Sequence[Mapping[str, Any]], content: str | None, *, parallel: bool
) -> str:
    """Return a grammar in Lark form.

    Args:
        functions: that may be called, each with a `name` and maybe `parameters`, a JSON Schema.
        content: grammar of what may be written instead of calls; None demands calls.
        parallel: whether one answer may have several calls.
    """
    begin, end = DEFAULT_TOKENS["tool_call_start_token"], DEFAULT_TOKENS["tool_call_end_token"]
    more = f' (", " call){{0,{MAX_CALLS - 1}}}' if parallel else ""
    rules = [f'calls: {begin} "[" call{more} "]" {end}']
    if content is None:
        rules.insert(0, "start: calls")
    elif content == ANY_TEXT:  # models may say something before they call
        rules.insert(0, f"start: TEXT? calls?\nTEXT: {ANY_TEXT.replace('*', '+')}")
    else:
        rules.insert(0, f"start: content | calls\ncontent: {content}")
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(functions))))
    for number, function in enumerate(functions):
        rules += _call_rules(f"call_{number}", function["name"], function.get("parameters") or {})
    return "\n".join(rules)


def with_any_values(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function whose arguments have names and may have any values."""
    properties = (function.get("parameters") or {}).get("properties")
    if not isinstance(properties, Mapping):
        return {"name": function["name"], "parameters": {"additionalProperties": True}}
    return {"name": function["name"], "parameters": {"properties": dict.fromkeys(properties, {})}}


def json_rule(schema: Mapping[str, Any] | bool) -> str:
    """Return a grammar of the JSON that is valid under a schema, in the models' own style."""
    inner = bounded(dict(schema)) if isinstance(schema, Mapping) else {}
    return "%json " + json.dumps({"x-guidance": STYLE, **inner}, ensure_ascii=False)


def _call_rules(rule: str, name: str, schema: Mapping[str, Any]) -> list[str]:
    """Return the rules of a call of one function."""
    properties = schema.get("properties", {})
    if not _can_be_named(name, schema):
        given = {"type": "object", **schema}
        return [f"{rule}: {_quoted(_json_call(name))} {json_rule(given)} {_quoted('}')}"]
    required = schema.get("required", [])
    rules = [f"{rule}: {_quoted(f'{name}(')} {rule}_0 {_quoted(')')}"]
    # Rule `first` goes on where nothing has been written, and `later` behind an argument.
    count = len(properties)
    limited = bounded({"type": "object", "properties": dict(properties)})["properties"]
    for place, (argument, value) in enumerate(limited.items()):
        rules.append(f"{rule}_v{place}: {_quoted(f'{argument}=')} {json_rule(value)}")
        for first, before in ((True, ""), (False, '", " ')):
            here = f"{rule}_{place}" if first else f"{rule}_{place}b"
            taken = f"{before}{rule}_v{place} {rule}_{place + 1}b"
            after = f"{rule}_{place + 1}" if first else f"{rule}_{place + 1}b"
            rules.append(f"{here}: {taken}" + ("" if argument in required else f" | {after}"))
    return [*rules, f'{rule}_{count}: ""', f'{rule}_{count}b: ""']


def _can_be_named(name: str, schema: Mapping[str, Any]) -> bool:
    """Whether the arguments of a function can be written one by one, as in Python."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        IDENTIFIER.fullmatch(name) is not None
        and set(schema) <= PLAIN
        and schema.get("type", "object") == "object"
        and isinstance(properties, Mapping)
        and all(IDENTIFIER.fullmatch(key) for key in properties)
        and isinstance(required, list)
        and set(map(str, required)) <= properties.keys()
        and not schema.get("additionalProperties")
        and '"$ref"' not in json.dumps(schema)  # which points from the root of the schema
    )


def _json_call(name: str) -> str:
    return f'{{"name": {json.dumps(name)}, "arguments": '


def _quoted(text: str) -> str:
    """Return a text as a terminal of the grammar."""
    return json.dumps(text, ensure_ascii=False)
