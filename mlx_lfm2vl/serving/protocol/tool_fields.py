"""The functions that a request offers the model, and whether it must call one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .fields import Fields

MAX_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
WORDS = ("none", "auto", "required")


@dataclass(frozen=True)
class Tools:
    """What may be called.

    Attributes:
        functions: that the model is told of: `name`, `description` and `parameters` of each.
        allowed: the names of those that it may call.
        must_call: whether the answer is a call.
        parallel: whether one answer may have several calls.
        is_strict: whether the arguments must be valid under the parameters.
    """

    functions: Sequence[dict[str, Any]] = ()
    allowed: Sequence[str] = ()
    must_call: bool = False
    parallel: bool = True
    is_strict: bool = False

    @property
    def is_free(self) -> bool:
        """Whether an answer may be anything that the model writes."""
        return not self.must_call and self.parallel and not self.is_strict


def read_tools(fields: Fields, *, nested: bool) -> Tools:
    """Read `tools`, `tool_choice` and `parallel_tool_calls`.

    Args:
        fields: of the request.
        nested: whether a function stands in the `function` of a tool, as in chat requests.

    Raises:
        BadField: one is wrong, or the choice is of a function that is not there.
    """
    functions: list[dict[str, Any]] = []
    strict = False
    for function in _described(fields, nested=nested):
        described, demands = _read_function(function)
        if described["name"] in (other["name"] for other in functions):
            raise function.bad("name", f"is {described['name']!r} twice")
        functions.append(described)
        strict = strict or demands
    parallel = fields.flag("parallel_tool_calls") is not False
    choice, name = _read_choice(fields, nested=nested)
    names = [function["name"] for function in functions]
    if name is not None and name not in names:
        expected = ", ".join(names) or "tools beside it"
        raise fields.bad("tool_choice", f"names the function {name!r:.80}, expected {expected}")
    if choice == "required" and not functions:
        raise fields.bad("tool_choice", "requires a call, but there are no tools")
    if choice == "none" or not functions:
        return Tools()
    allowed = names if name is None else [name]
    return Tools(functions, allowed, choice == "required", parallel and name is None, strict)


def _described(fields: Fields, *, nested: bool) -> Iterator[Fields]:
    """Yield the description of each function."""
    for tool in fields.objects("tools", most=MAX_TOOLS):
        kind = tool.text("type")
        if kind != "function":
            raise tool.bad("type", f"is {kind!r:.60}, but only functions can be offered here")
        function = tool.inner("function") if nested else tool
        if function is None:
            raise tool.bad("function", "is missing")
        if nested:
            tool.close()
        yield function


def _read_function(function: Fields) -> tuple[dict[str, Any], bool]:
    """Return the description of a function as the models were taught it, and whether it is strict.

    The models read a plain list of `{"name": ..., "description": ..., "parameters": ...}`.
    """
    name = function.text("name")
    if name is None or not NAME.fullmatch(name):
        raise function.bad("name", f"is {name!r:.80}, expected up to 64 letters, digits, _ and -")
    described: dict[str, Any] = {"name": name}
    if description := function.text("description"):
        described["description"] = description
    if function.inner("parameters") is not None:
        described["parameters"] = function.get("parameters")
    strict = function.flag("strict") is True
    function.close()
    return described, strict


def _read_choice(fields: Fields, *, nested: bool) -> tuple[str, str | None]:
    """Return "none", "auto" or "required", and the name of the function if one must be called."""
    value = fields.get("tool_choice")
    if isinstance(value, str | None):
        return fields.word("tool_choice", *WORDS) or "auto", None
    choice = Fields(value, fields.where("tool_choice"))
    if choice.text("type") != "function":
        raise choice.bad("type", "is unknown here, expected function")
    function = choice.inner("function") if nested else choice
    name = function.text("name") if function else None
    if function is None or name is None:
        raise choice.bad("function", "names no function")
    function.close()
    choice.close()
    return "required", name
