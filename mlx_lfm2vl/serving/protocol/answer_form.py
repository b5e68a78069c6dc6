"""The form that a request demands of an answer, as one constraint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...constraints.constraint import Constraint, choice, grammar, json_schema, regex
from ...errors import InputError
from .call_grammar import ANY_TEXT, call_grammar, json_rule, with_any_values
from .fields import BadField, Fields
from .tool_fields import Tools

MAX_CHOICES = 1000
ANY_OBJECT: dict[str, Any] = {"type": "object"}
FORMATS = ("text", "json_object", "json_schema")
MADE: dict[str, Callable[[Any], Constraint]] = {
    "regex": regex,
    "choice": choice,
    "grammar": grammar,
    "json_schema": json_schema,
}


def read_constraint(fields: Fields) -> Constraint | None:
    """Read `constraint`, as in `{"type": "regex", "regex": "[0-9]+"}`.

    Its `type` is also the name of the field that holds it: `regex` and `grammar` are texts,
    `choice` is a list of texts, and `json_schema` is a schema.

    Raises:
        BadField: it is wrong, or cannot be enforced.
    """
    given = fields.inner("constraint")
    if given is None:
        return None
    kind = given.word("type", *MADE)
    if kind is None:
        raise given.bad("type", f"is missing, expected {', '.join(MADE)}")
    value: Any = None
    if kind == "json_schema":
        value = given.get(kind)
    elif kind == "choice":
        value = given.items(kind, most=MAX_CHOICES)
    else:
        value = given.text(kind)
    if value is None:
        raise given.bad(kind, "is missing")
    given.close()
    return _made(MADE[kind], value, given.where(kind))


def read_schema(given: Fields | None, *, nested: bool) -> Any:
    """Read `response_format`, or `text.format` of a response.

    Args:
        given: the object.
        nested: whether the schema stands in a `json_schema` of it, as in chat requests.

    Returns:
        The JSON Schema that the answer must follow, or None.

    Raises:
        BadField: it is wrong.
    """
    if given is None:
        return None
    kind = given.word("type", *FORMATS)
    if kind is None:
        raise given.bad("type", f"is missing, expected {', '.join(FORMATS)}")
    if kind != "json_schema":
        given.close()
        return ANY_OBJECT if kind == "json_object" else None
    holder = given.inner("json_schema") if nested else given
    if holder is None:
        raise given.bad("json_schema", "is missing")
    holder.ignore("name", "description", "strict")  # it is always followed
    if holder.inner("schema") is None:
        raise holder.bad("schema", "is missing")
    schema = holder.get("schema")
    holder.close()
    given.close()
    return schema


def answer_form(
    fields: Fields, tools: Tools, schema: Any, where: str, constraint: Constraint | None
) -> Constraint | None:
    """Return what the whole answer must match; None lets the model write what it likes.

    Args:
        fields: of the request, for errors.
        tools: that may be called instead.
        schema: from `read_schema`.
        where: name of the field that the schema is from.
        constraint: from `read_constraint`.

    Raises:
        BadField: two forms exclude each other, or one cannot be enforced.
    """
    if constraint is not None and (schema is not None or tools.functions):
        other = where if schema is not None else "tools"
        raise fields.bad("constraint", f"and {other} exclude each other")
    if constraint is not None:
        return constraint
    if schema is not None:
        constraint = _made(json_schema, schema, fields.where(where))
    if not tools.functions or (constraint is None and tools.is_free):
        return constraint
    content = ANY_TEXT if schema is None else json_rule(schema)
    offered = [function for function in tools.functions if function["name"] in tools.allowed]
    if not (tools.must_call or tools.is_strict):  # no schema of a tool that is beside the point
        offered = [with_any_values(function) for function in offered]
    lark = call_grammar(offered, None if tools.must_call else content, parallel=tools.parallel)
    return _made(grammar, lark, fields.where("tools"))


def _made(make: Callable[[Any], Constraint], value: Any, where: str) -> Constraint:
    try:
        return make(value)
    except InputError as error:
        raise BadField(str(error), where) from None
